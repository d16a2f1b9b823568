"""Logistic regressions on the same features at many values of lambda, for the probe's search.

An encoder's features vary a thousand times more in some directions than in others. L-BFGS, which
starts from one curvature for all, then takes hundreds of iterations. In the features' principal
components, each measured in units of its curvature, it takes tens, to the same optimum.
"""

import math
from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from torch import Tensor

from flava.evaluation.linear_probe import MAX_ITERATIONS, FeatureMatrix, Labels

TOLERANCE = 0.01
"""A fit ends where no entry of the gradient exceeds this share of the mean loss of a sample. In
units of the curvature the gradient is about the way to the optimum, and where nearly all samples
are told apart losses, curvature and gradient are small alike."""
CHECK_EVERY = 10
"""Iterations after which it is asked again whether a fit is worth going on with."""
HISTORY = 10
"""Earlier steps that L-BFGS remembers, as scikit-learn's."""
BLOCK_LOGITS = 2**22
"""Logits that are in memory at a time: 16 MiB."""

Weights = Float[np.ndarray, "width_and_1 classes"]
"""Of each principal component and, in the last row, of the constant."""


class RegularisationPath:
    """Probes on the same samples, each started from its neighbours among those fitted before.

    Minimises the sum of cross-entropies + lambda / 2 * |w|^2, intercepts free. Of two classes
    scikit-learn has one vector of weights, the difference of the two here, so that its lambda
    counts twice.
    """

    def __init__(
        self, features: FeatureMatrix, labels: Labels, device: torch.device | str = "cpu"
    ) -> None:
        self.device = device
        self.mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        self.classes, targets = np.unique(labels, return_inverse=True)
        self.targets = torch.as_tensor(targets, device=device)
        centred = torch.as_tensor(features - self.mean, dtype=torch.float32, device=device)
        squares = (centred.T @ centred).double().cpu()
        variances, directions = np.linalg.eigh(squares.numpy())
        self.directions = directions.astype(np.float32)
        self.components = centred @ torch.as_tensor(self.directions, device=device)
        # The Hessian's diagonal where all classes are equally likely.
        share = 1 / len(self.classes)
        with_constant = np.append(variances.clip(min=0), len(features))
        self.curvature = share * (1 - share) * with_constant[:, None]
        self.fitted: dict[int, Weights] = {}

    def fit(
        self, step: int, regularisation: float, cannot_win: Callable[[], bool] = lambda: False
    ) -> None:
        """Fit the probe of that lambda; steps are lambda's logarithm in any unit.

        ``cannot_win`` is called every ``CHECK_EVERY`` iterations, with the fit as it is then in
        place: where it returns True, the fit ends.
        """
        counted = 2 if len(self.classes) == 2 else 1
        penalty = np.full_like(self.curvature, counted * regularisation)
        penalty[-1] = 0
        units = 1 / np.sqrt(self.curvature + penalty)
        iterations = count(1)
        latest = (math.inf, 0.0)

        def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal latest
            value, gradient = self.loss(units, penalty, scaled)
            latest = float(abs(gradient).max()), value / len(self.targets)
            return value, gradient

        def check_end(scaled: np.ndarray) -> None:
            steepest, mean_loss = latest
            if steepest < TOLERANCE * mean_loss:
                raise StopIteration
            if next(iterations) % CHECK_EVERY == 0:
                self.fitted[step] = units * scaled.reshape(self.shape)
                if cannot_win():
                    raise StopIteration

        fitted = minimize(
            loss,
            (self.start(step) / units).ravel(),
            method="L-BFGS-B",
            jac=True,
            callback=check_end,
            options={"maxiter": MAX_ITERATIONS, "maxcor": HISTORY, "gtol": 0.0, "ftol": 0.0},
        )
        self.fitted[step] = units * fitted.x.reshape(self.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.curvature), len(self.classes)

    def start(self, step: int) -> Weights:
        """What the probes of the nearest lambdas on both sides have in between, if there are any.

        The optimum is a smooth curve over log lambda, here a straight line.
        """
        if not self.fitted:
            return np.zeros(self.shape)
        # Beyond the last one fitted, that stands on both sides.
        below = max((other for other in self.fitted if other < step), default=min(self.fitted))
        above = min((other for other in self.fitted if other > step), default=max(self.fitted))
        if below == above:
            return self.fitted[below]
        share = (step - below) / (above - below)
        return (1 - share) * self.fitted[below] + share * self.fitted[above]

    def loss(
        self, units: Float[np.ndarray, "width_and_1 1"], penalty: np.ndarray, flat: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The loss and its gradient of weights in ``units``; products in 32 bits, sums in 64."""
        weights = units * flat.reshape(self.shape)
        placed = torch.as_tensor(weights, dtype=torch.float32, device=self.device)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        gradient = torch.zeros_like(placed)
        size = max(1, BLOCK_LOGITS // len(self.classes))
        for rows, targets in zip(
            self.components.split(size), self.targets.split(size), strict=True
        ):
            losses, errors = _cross_entropy(rows @ placed[:-1] + placed[-1], targets)
            total += losses.sum(dtype=torch.float64)
            gradient[:-1].addmm_(rows.T, errors)
            gradient[-1] += errors.sum(dim=0)
        pulled = gradient.double().cpu().numpy() + penalty * weights
        value = total.item() + 0.5 * float((penalty * weights**2).sum())
        return value, (units * pulled).ravel()

    def predict(self, step: int, features: FeatureMatrix) -> Labels:
        """Of each row, the class that the fitted probe of that lambda takes it for."""
        weights = self.fitted[step].astype(np.float32)
        logits = (features - self.mean) @ (self.directions @ weights[:-1]) + weights[-1]
        return self.classes[logits.argmax(axis=1)]


def _cross_entropy(
    logits: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]
) -> tuple[Float[Tensor, " rows"], Float[Tensor, "rows classes"]]:
    """Each row's loss, and its gradient; the latter in the place of the logits."""
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    places = targets[:, None]
    losses = (normaliser - logits.gather(1, places))[:, 0]
    errors = logits.sub_(normaliser).exp_()
    errors.scatter_add_(1, places, errors.new_full((1, 1), -1).expand(len(errors), 1))
    return losses, errors

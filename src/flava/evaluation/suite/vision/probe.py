"""The probe of CLIP's protocol: logistic regression by L-BFGS, its lambda found by a search.

scikit-learn minimises C * (the losses' sum over the samples) + |w|^2 / 2, without a penalty on the
intercepts. Divided by C, that is the sum + lambda/2 * |w|^2 with lambda = 1 / C.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from flava.evaluation.outputs import progress

MAX_ITERATIONS = 1000
"""CLIP (Radford et al. 2021), appendix A.3; FLAVA, section B.1."""
WARM_ITERATIONS = MAX_ITERATIONS // 4
"""The limit of a fit that goes on from a neighbour's: 15 of them cost less than four others."""
TOLERANCE = 1e-4
"""Of the gradient of the losses' sum: what scikit-learn's default meant when CLIP used it. Since
1.4 its default is of the mean, where fits of many samples stop long before lambda tells."""
WARM_TOLERANCE = 0.05
"""Of the penalty's pull on the largest weight, lambda * |w|, where that is more than `TOLERANCE`.
What a fit of the search leaves undone then is what a change of lambda by 5 % does; it goes by
steps of 33 %."""
PER_DECADE = 8
LARGEST = 6 * PER_DECADE
"""Lambda is 10^(step / 8), with steps from -48 to 48: 1e-6 to 1e6 in 96 steps (appendix A.3)."""
COARSE = 2 * PER_DECADE
"""Steps between the first candidates: 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6 (appendix A.3)."""
MOST_TRIED = 15
"""Of 97 steps: 7 coarse ones, and two in each of the four refinements."""

Features = Float[np.ndarray, "samples width"]
Labels = Int[np.ndarray, " samples"]
Metric = Callable[[Labels, Labels], float]
"""(truth, predicted) -> the figure, more is better."""


@dataclass(frozen=True)
class Found:
    """The best step, and every step that was tried with its score."""

    step: int
    scores: dict[int, float]

    @property
    def regularisation(self) -> float:
        """Lambda."""
        return 10 ** (self.step / PER_DECADE)


def search(score: Callable[[int], float]) -> Found:
    """CLIP's search (appendix A.3): from the peak of the coarse candidates, in halved intervals.

    At most ``MOST_TRIED`` steps are scored, the strongest regularisation first. Where the score
    has one peak and no plateau, it is found; of ties, the stronger regularisation is taken. Where
    the stronger neighbour of a peak is better, the weaker one, which costs most, is not scored.
    """
    scores = {step: score(step) for step in range(LARGEST, -LARGEST - 1, -COARSE)}
    interval = COARSE // 2
    while interval:
        peak = best_of(scores)
        for step in (peak + interval, peak - interval):
            if abs(step) <= LARGEST and step not in scores:
                scores[step] = score(step)
            if best_of(scores) != peak:
                break
        interval //= 2
    return Found(best_of(scores), scores)


def best_of(scores: dict[int, float]) -> int:
    """The step with the best score, of equals the strongest regularisation."""
    return max(scores, key=lambda step: (scores[step], step))


class Probes:
    """Probes on the same samples, each started from its neighbours among those fitted before."""

    def __init__(self, features: Features, labels: Labels) -> None:
        # The intercepts are free, so that centring changes no optimum: it is reached sooner.
        self.mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
        self.centred, self.labels = features - self.mean, labels
        self.fitted: dict[int, LogisticRegression] = {}

    def fit(self, step: int) -> None:
        """Fit the probe of that lambda."""
        self.fitted[step] = fit(self.centred, self.labels, step, self.start(step))

    def start(self, step: int) -> LogisticRegression | None:
        """What the probes of the nearest lambdas on both sides have in between, if there are any.

        The optimum is a smooth curve over log lambda, here a straight line.
        """
        below = max((other for other in self.fitted if other < step), default=None)
        above = min((other for other in self.fitted if other > step), default=None)
        if below is None or above is None:
            return self.fitted.get(above if below is None else below)
        start, other = deepcopy(self.fitted[below]), self.fitted[above]
        share = (step - below) / (above - below)
        start.coef_ = (1 - share) * start.coef_ + share * other.coef_
        start.intercept_ = (1 - share) * start.intercept_ + share * other.intercept_
        return start

    def predict(self, step: int, features: Features) -> Labels:
        """Of each row, the class that the fitted probe of that lambda takes it for."""
        with dispatching() as placed:
            return to_numpy(self.fitted[step].predict(placed(features - self.mean)))


@dataclass(frozen=True)
class Data:
    """Features with a class number for each row."""

    features: Features
    labels: Labels

    def joined(self, other: "Data") -> "Data":
        """The rows of both."""
        return Data(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
        )


def predictions(
    train: Data,
    validation: Data,
    test: Features,
    metric: Metric,
    *,
    shown_as: str | None = None,
) -> tuple[Labels, Found]:
    """The test samples' classes, and how lambda was found: on ``validation`` alone.

    The probe that predicts is fitted on train and validation samples, from zero: the way of the
    search leaves no trace in it but lambda. With a progress bar of the fits if it has a name.

    Raises:
        ValueError: the features are not finite, or there are fewer than two classes.
    """
    check(train, validation, test)
    probes = Probes(train.features, train.labels)
    with progress(shown_as, MOST_TRIED + 1) as advance:

        def score(step: int) -> float:
            probes.fit(step)
            advance(1)
            return metric(validation.labels, probes.predict(step, validation.features))

        found = search(score)
        both = train.joined(validation)
        final = Probes(both.features, both.labels)
        final.fit(found.step)
    return final.predict(found.step, test), found


def check(train: Data, validation: Data, test: Features) -> None:
    mistakes = [
        f"the {name} features hold numbers that are not finite: the model has diverged"
        for name, features in (
            ("training", train.features),
            ("validation", validation.features),
            ("test", test),
        )
        if not np.isfinite(features).all()
    ]
    if len(np.unique(train.labels)) < 2:
        mistakes.append("the training samples are of fewer than two classes: take more of them")
    if mistakes:
        raise ValueError("no probe can be fitted:\n  " + "\n  ".join(mistakes))


def fit(
    centred: Features, labels: Labels, step: int, start: LogisticRegression | None = None
) -> LogisticRegression:
    """Logistic regression with lambda 10^(step / 8); from ``start``, a probe of the same classes.

    Whatever CLIP names is as there, and the rest scikit-learn's default (openai/CLIP, issue 39).
    On a GPU where there is one.
    """
    regularisation = 10 ** (step / PER_DECADE)
    if start is None:
        classifier = LogisticRegression(warm_start=True, max_iter=MAX_ITERATIONS)
        tolerance = TOLERANCE
    else:
        classifier = deepcopy(start).set_params(max_iter=WARM_ITERATIONS)
        pull = regularisation * float(abs(start.coef_).max())
        tolerance = max(TOLERANCE, WARM_TOLERANCE * pull)
    classifier.set_params(C=1 / regularisation, tol=tolerance / len(labels))
    with dispatching() as placed, warnings.catch_warnings():
        # Where the limit of iterations is reached, it is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(placed(centred), placed(labels))
    return classifier


def to_numpy(array: Any) -> np.ndarray:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array


@contextmanager
def dispatching(device: str | None = None) -> Iterator[Callable[[np.ndarray], Any]]:
    """scikit-learn on the GPU, if there is one, by its array API: yields what moves arrays there.

    From scikit-learn 1.9 on its L-BFGS computes on torch tensors; earlier ones stay on the CPU.
    """
    if torch.cuda.is_available() and LogisticRegression().__sklearn_tags__().array_api_support:
        device = device or "cuda"
    if device is None:
        yield lambda array: array
        return
    # scikit-learn insists on it, and SciPy reads it at its import only. Of SciPy nothing but the
    # minimiser is used here, on NumPy's arrays, so that it may come late.
    os.environ.setdefault("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True):
        yield lambda array: torch.as_tensor(array, device=device)

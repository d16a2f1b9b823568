"""The probe of CLIP's protocol: logistic regression by L-BFGS, its lambda found by a search.

scikit-learn minimises C * (the losses' sum over the samples) + |w|^2 / 2, without a penalty on the
intercepts. Divided by C, that is the sum + lambda/2 * |w|^2 with lambda = 1 / C.
"""

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from flava.core.distributed import local_device
from flava.evaluation.features import progress
from flava.evaluation.regularisation_path import MAX_ITERATIONS, RegularisationPath

TOLERANCE = 1e-4
"""Of the gradient of the losses' sum: what scikit-learn's default meant when CLIP used it. Since
1.4 its default is of the mean, where fits of many samples stop long before lambda tells."""
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
        return regularisation(self.step)


def regularisation(step: int) -> float:
    """The lambda of a step."""
    return 10 ** (step / PER_DECADE)


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


class Race:
    """Scores of lambdas on the validation samples; fits that have lost are not taken to their end.

    One has lost when its score is below the best one by more than twice that one's standard error,
    and did not rise in the last iterations.
    """

    def __init__(self, train: Data, validation: Data, metric: Metric) -> None:
        self.path = RegularisationPath(train.features, train.labels, local_device())
        self.validation, self.metric = validation, metric
        self.best = 0.0

    def score(self, step: int) -> float:
        """The score of a step's probe."""
        margin = 2 * math.sqrt(self.best * (1 - self.best) / len(self.validation.labels))
        last = math.inf

        def has_lost() -> bool:
            nonlocal last
            before, last = last, self.current(step)
            return last <= before and last < self.best - margin

        self.path.fit(step, regularisation(step), has_lost)
        score = self.current(step)
        self.best = max(self.best, score)
        return score

    def current(self, step: int) -> float:
        """The score of a step's probe as it is."""
        return self.metric(
            self.validation.labels, self.path.predict(step, self.validation.features)
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
    race = Race(train, validation, metric)
    with progress(shown_as, MOST_TRIED + 1) as advance:

        def score(step: int) -> float:
            advance(1)
            return race.score(step)

        found = search(score)
        return fit_and_predict(train.joined(validation), found.regularisation, test), found


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


def fit_and_predict(train: Data, regularisation: float, test: Features) -> Labels:
    """The classes of ``test`` by the probe with that lambda."""
    # The intercepts are free, so that centring changes no optimum: it is reached sooner.
    mean = train.features.mean(axis=0, dtype=np.float64).astype(train.features.dtype)
    with dispatching() as placed:
        classifier = fit(placed(train.features - mean), placed(train.labels), regularisation)
        return to_numpy(classifier.predict(placed(test - mean)))


def fit(centred: Any, labels: Any, regularisation: float) -> LogisticRegression:
    """Logistic regression with that lambda, from zero.

    Whatever CLIP names is as there, and the rest scikit-learn's default (openai/CLIP, issue 39).
    """
    classifier = LogisticRegression(
        C=1 / regularisation, max_iter=MAX_ITERATIONS, tol=TOLERANCE / len(labels)
    )
    with warnings.catch_warnings():
        # Where the limit of iterations is reached, it is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(centred, labels)


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

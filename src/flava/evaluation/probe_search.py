"""The linear probe of CLIP's protocol (appendix A.3): its lambda is found by a search.

The search scores each lambda by a fit of `RegularisationPath`, which is quick, as it starts from
the fits before. The probe that is reported is fitted from zero by scikit-learn as in
`flava.evaluation.linear_probe`, so that nothing of the search is left in it but lambda. Lambda
weighs |w|^2 / 2 against the sum of the samples' losses, so that it is 1 / C.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression

from flava.core.distributed import local_device
from flava.core.progress import progress
from flava.evaluation import linear_probe
from flava.evaluation.linear_probe import (
    FeatureMatrix,
    LabelledFeatures,
    Labels,
    fit_logistic_regression,
    not_finite,
)
from flava.evaluation.regularisation_path import RegularisationPath

PER_DECADE = 8
LARGEST = 6 * PER_DECADE
"""Lambda is 10^(step / 8), with steps from -48 to 48: 1e-6 to 1e6 in 96 steps (appendix A.3)."""
COARSE = 2 * PER_DECADE
"""Steps between the first candidates: 1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6 (appendix A.3)."""
MOST_TRIED = 15
"""Of 97 steps: 7 coarse ones, and two in each of the four refinements."""

Metric = Callable[[Labels, Labels], float]
"""(truth, predicted) -> the figure, more is better."""


@dataclass(frozen=True)
class LambdaSearch:
    """The best step, and every step that was tried with its score."""

    step: int
    scores: dict[int, float]

    @property
    def regularisation(self) -> float:
        """Lambda."""
        return _regularisation(self.step)


def _regularisation(step: int) -> float:
    """The lambda of a step."""
    return 10 ** (step / PER_DECADE)


def _search(score: Callable[[int], float]) -> LambdaSearch:
    """CLIP's search (appendix A.3): from the peak of the coarse candidates, in halved intervals.

    At most ``MOST_TRIED`` steps are scored, the strongest regularisation first. Where the score
    has one peak and no plateau, it is found; of ties, the stronger regularisation is taken. Where
    the stronger neighbour of a peak is better, the weaker one, which costs most, is not scored.
    """
    scores = {step: score(step) for step in range(LARGEST, -LARGEST - 1, -COARSE)}
    interval = COARSE // 2
    while interval:
        peak = _best_of(scores)
        for step in (peak + interval, peak - interval):
            if abs(step) <= LARGEST and step not in scores:
                scores[step] = score(step)
            if _best_of(scores) != peak:
                break
        interval //= 2
    return LambdaSearch(_best_of(scores), scores)


def _best_of(scores: dict[int, float]) -> int:
    """The step with the best score, of equals the strongest regularisation."""
    return max(scores, key=lambda step: (scores[step], step))


class ValidationScorer:
    """Scores of lambdas on the validation samples; a fit that cannot win any more is ended early.

    It cannot when its score is below the best one by more than twice that one's standard error,
    and did not rise in the last iterations.
    """

    def __init__(
        self, train: LabelledFeatures, validation: LabelledFeatures, metric: Metric
    ) -> None:
        self.path = RegularisationPath(train.features, train.labels, local_device())
        self.validation, self.metric = validation, metric
        self.best = 0.0

    def score(self, step: int) -> float:
        """The score of a step's probe."""
        margin = 2 * math.sqrt(self.best * (1 - self.best) / len(self.validation.labels))
        last = math.inf

        def cannot_win() -> bool:
            nonlocal last
            before, last = last, self.current(step)
            return last <= before and last < self.best - margin

        self.path.fit(step, _regularisation(step), cannot_win)
        score = self.current(step)
        self.best = max(self.best, score)
        return score

    def current(self, step: int) -> float:
        """The score of a step's probe as it is."""
        return self.metric(
            self.validation.labels, self.path.predict(step, self.validation.features)
        )


def predictions(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    test: FeatureMatrix,
    metric: Metric,
    *,
    title: str | None = None,
) -> tuple[Labels, LambdaSearch]:
    """The test samples' classes, and how lambda was found: on ``validation`` alone.

    The probe that predicts is fitted on train and validation samples. There is a progress bar of
    the fits if it has a title.

    Raises:
        ValueError: the features are not finite, or there are fewer than two classes.
    """
    _check(train, validation, test)
    scorer = ValidationScorer(train, validation, metric)
    with progress(title, MOST_TRIED + 1) as advance:

        def score(step: int) -> float:
            advance(1)
            return scorer.score(step)

        found = _search(score)
        return _fit_and_predict(train.joined(validation), found.regularisation, test), found


def _check(train: LabelledFeatures, validation: LabelledFeatures, test: FeatureMatrix) -> None:
    mistakes = [
        *not_finite(train.features, "training features"),
        *not_finite(validation.features, "validation features"),
        *not_finite(test, "test features"),
    ]
    if len(np.unique(train.labels)) < 2:
        mistakes.append("the training samples are of fewer than two classes: take more of them")
    if mistakes:
        raise ValueError("no probe can be fitted:\n  " + "\n  ".join(mistakes))


def _fit_and_predict(train: LabelledFeatures, regularisation: float, test: FeatureMatrix) -> Labels:
    """The classes of ``test`` by the probe with that lambda."""
    # The intercepts are free, so that centring changes no optimum: it is reached sooner.
    mean = train.features.mean(axis=0, dtype=np.float64).astype(train.features.dtype)
    with _dispatching() as placed:
        classifier = _fit(placed(train.features - mean), placed(train.labels), regularisation)
        return _to_numpy(classifier.predict(placed(test - mean)))


def _fit(centred: Any, labels: Any, regularisation: float) -> LogisticRegression:
    """Logistic regression with that lambda, from zero.

    Since scikit-learn 1.4 its tolerance is of the gradient of the mean loss, where fits of many
    samples stop long before lambda tells. When CLIP used it, it was of the sum's.
    """
    tolerance = linear_probe.TOLERANCE / len(labels)
    return fit_logistic_regression(centred, labels, 1 / regularisation, tolerance)


def _to_numpy(array: Any) -> np.ndarray:
    return array.cpu().numpy() if isinstance(array, torch.Tensor) else array


@contextmanager
def _dispatching(device: str | None = None) -> Iterator[Callable[[np.ndarray], Any]]:
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

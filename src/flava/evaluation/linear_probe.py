"""Linear probes: logistic regression on frozen features, its regularisation chosen on validation.

Two protocols share what is in this module. `fit_probe` tries a few strengths; it measures the
embedded corpus and users' own data. `flava.evaluation.probe_search` is CLIP's, for the suite. They
are not one, since their figures would change: here features are divided by their scale, and
scikit-learn's tolerance is that of the mean loss; there the penalty is on the weights of unscaled
features, and the tolerance that of the sum of the losses.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
"""Candidates for scikit-learn's C, the inverse of the regularisation."""

MAX_ITERATIONS = 1000
"""Of L-BFGS: CLIP (Radford et al. 2021), appendix A.3; FLAVA, section B.1."""

TOLERANCE = 1e-4
"""Of the gradient: scikit-learn's default."""

FeatureMatrix = Float[np.ndarray, "samples width"]
Labels = Shaped[np.ndarray, " samples"]
"""Names or numbers of classes."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with a class for each row."""

    features: FeatureMatrix
    labels: Labels

    def joined(self, other: "LabelledFeatures") -> "LabelledFeatures":
        """The rows of both."""
        return LabelledFeatures(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
        )


def fit_logistic_regression(
    features: Any, labels: Any, strength: float, tolerance: float = TOLERANCE
) -> LogisticRegression:
    """scikit-learn's L-BFGS, from zero, with ``strength`` for its C.

    It minimises C * (the sum of the samples' losses) + |w|^2 / 2, without a penalty on the
    intercepts. Whatever CLIP does not name is scikit-learn's default (openai/CLIP, issue 39).
    """
    classifier = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=tolerance)
    with warnings.catch_warnings():
        # Where the limit of iterations is reached, it is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(features, labels)


def not_finite(features: FeatureMatrix, name: str) -> list[str]:
    """A line if the features are not finite."""
    if np.isfinite(features).all():
        return []
    return [f"the {name} hold numbers that are not finite: the model has diverged"]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe; the features are centred and divided by one number for all dimensions."""

    mean: Float[np.ndarray, " width"]
    scale: float
    classifier: LogisticRegression

    def accuracy(self, test: LabelledFeatures) -> float:
        """The share of right predictions."""
        scaled = (test.features - self.mean) / self.scale
        return float(self.classifier.score(scaled, test.labels))


def fit_probe(train: LabelledFeatures, validation: LabelledFeatures) -> LinearProbe:
    """The probe on ``train`` whose regularisation serves ``validation`` best; the stronger on ties.

    Raises:
        ValueError: as `fit_at`.
    """
    return max(try_strengths(train, validation), key=lambda trial: trial[1])[0]


def try_strengths(
    train: LabelledFeatures, validation: LabelledFeatures
) -> list[tuple[LinearProbe, float]]:
    """A probe on ``train`` for each strength, the strongest regularisation first, with its accuracy
    on ``validation``.

    Raises:
        ValueError: as `fit_at`.
    """
    probes = (fit_at(train, strength) for strength in STRENGTHS)
    return [(probe, probe.accuracy(validation)) for probe in probes]


def fit_at(train: LabelledFeatures, strength: float) -> LinearProbe:
    """The probe on ``train`` with ``strength`` for scikit-learn's C.

    One scale for all dimensions, not one each: standardised dimensions would turn the small
    components of a PCA, which are noise, into large ones.

    Raises:
        ValueError: the features are not finite, or there are fewer than two classes.
    """
    if mistakes := not_finite(train.features, "features"):
        raise ValueError(mistakes[0])
    mean = train.features.mean(axis=0)
    # Features that are all the same tell nothing, whatever they are divided by.
    scale = float(train.features.std(axis=0).mean()) or 1.0
    scaled = (train.features - mean) / scale
    # These products are so small that a second thread costs more than it brings, and much more
    # where the processor is shared.
    with threadpool_limits(1):
        return LinearProbe(mean, scale, fit_logistic_regression(scaled, train.labels, strength))


def pca_of_pixels(train: FeatureMatrix, components: int, seed: int) -> PCA:
    """Principal components of flattened pixels; as many as there are, if ``components`` is more."""
    return PCA(
        n_components=min(components, *train.shape), svd_solver="randomized", random_state=seed
    ).fit(train)

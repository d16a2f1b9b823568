"""Linear probe: how well a logistic regression reads the labels off frozen features.

As CLIP and the paper do: scikit-learn's L-BFGS with at most 1,000 iterations, the regularisation
chosen on the validation images. Test images are looked at once.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1)
"""Candidates for scikit-learn's C, the inverse of the regularisation."""

MAX_ITERATIONS = 1000
"""The paper's, section B.1 (CLIP's)."""

Features = Float[np.ndarray, "samples width"]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features with a class name for each row."""

    features: Features
    labels: np.ndarray


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
    """A probe on ``train`` for each strength, the strongest first, and its accuracy elsewhere.

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
    if not np.isfinite(train.features).all():
        raise ValueError("the features hold numbers that are not finite: the model has diverged")
    mean = train.features.mean(axis=0)
    # Features that are all the same tell nothing, whatever they are divided by.
    scale = float(train.features.std(axis=0).mean()) or 1.0
    scaled = (train.features - mean) / scale
    classifier = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    # These products are so small that a second thread costs more than it brings, and much more
    # where the processor is shared.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Where the limit of iterations is reached, it is part of the protocol.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(scaled, train.labels)
    return LinearProbe(mean, scale, classifier)


def pca_of_pixels(train: Features, components: int, seed: int) -> PCA:
    """Principal components of flattened pixels; as many as there are, if ``components`` is more."""
    return PCA(
        n_components=min(components, *train.shape), svd_solver="randomized", random_state=seed
    ).fit(train)

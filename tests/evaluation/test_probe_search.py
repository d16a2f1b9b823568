"""The search beside brute force, the probe beside its definition and scikit-learn alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from flava.evaluation import probe_search
from flava.evaluation.linear_probe import LabelledFeatures
from flava.evaluation.probe_search import (
    ValidationScorer,
    _fit,
    _fit_and_predict,
    _search,
    predictions,
)
from flava.evaluation.regularisation_path import RegularisationPath
from tests.evaluation.probing import count_passes, samples

STEPS = range(-48, 49)


@given(peak=st.integers(-48, 48), left=st.floats(0.1, 5), right=st.floats(0.1, 5))
def test_search_finds_a_single_peak_in_15_steps(peak: int, left: float, right: float) -> None:
    def score(step: int) -> float:
        return (step - peak) * left if step < peak else (peak - step) * right

    found = _search(score)
    assert found.step == max(STEPS, key=score) == peak
    assert found.regularisation == pytest.approx(10 ** (peak / 8))
    assert len(found.scores) <= 15


def test_search_starts_with_clips_candidates_and_halves_to_8_steps_a_decade() -> None:
    tried: list[int] = []

    def score(step: int) -> float:
        tried.append(step)
        return -abs(step - 3.2)

    assert _search(score).step == 3
    first = [10 ** (step / 8) for step in tried[:7]]
    assert first == pytest.approx([1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6])
    assert tried[7:] == [8, -8, 4, 6, 2, 5, 3]  # not -4, since 4 is better than 0


def test_of_ties_the_stronger_regularisation_is_taken() -> None:
    assert _search(lambda _: 0.5).step == 48
    assert _search(lambda step: float(step < 20)).step == 19


def blobs(seed: int, samples: int, width: int, classes: int, spread: float) -> LabelledFeatures:
    """Overlapping classes around a mean far from zero, as features of an encoder are."""
    centres = np.random.default_rng(0).normal(size=(classes, width)) * spread
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    features = centres[labels] + rng.normal(size=(samples, width)) + 5
    return LabelledFeatures(features.astype(np.float32), labels)


@pytest.mark.parametrize("step", [-16, 0, 8, 24])
def test_lambda_weighs_half_the_squared_weights_against_the_sum_of_losses(step: int) -> None:
    """At the optimum, the gradient of: sum of cross entropies + lambda / 2 * |w|^2."""
    data = blobs(1, 400, 4, 3, 0.5)
    features = data.features.astype(np.float64) - data.features.mean(axis=0)
    fitted = _fit(features, data.labels, 10 ** (step / 8))
    logits = features @ fitted.coef_.T + fitted.intercept_
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[data.labels]
    gradient = error.T @ features + 10 ** (step / 8) * fitted.coef_
    assert np.abs(gradient).max() < 1.1e-4
    assert np.abs(error.sum(axis=0)).max() < 1.1e-4  # no penalty on the intercepts


def test_the_search_does_as_well_as_all_97_lambdas_fitted_from_zero() -> None:
    sizes = ((1, 150), (2, 1500), (3, 500))
    train, validation, test = (blobs(seed, size, 12, 3, 0.35) for seed, size in sizes)
    brute = {}
    for step in STEPS:
        alone = LogisticRegression(C=10 ** (-step / 8), max_iter=1000)
        alone.fit(train.features, train.labels)
        brute[step] = alone.score(validation.features, validation.labels)
    predicted, found = predictions(train, validation, test.features, accuracy_score)
    assert len(set(brute.values())) > 10  # there is something to find
    # Scores of 1,500 samples have more peaks than one; their standard error is 0.012.
    assert brute[found.step] >= max(brute.values()) - 0.006
    assert max(brute.values()) - brute[-48] > 0.006  # not so by chance
    both = train.joined(validation)
    final = LogisticRegression(C=1 / found.regularisation, max_iter=1000)
    final.fit(both.features, both.labels)
    assert (predicted == final.predict(test.features)).mean() > 0.99


def test_fits_that_have_lost_end_early_and_change_no_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = count_passes(monkeypatch)
    train, validation = (
        LabelledFeatures(*samples(seed, size, 20)) for seed, size in ((1, 600), (2, 3000))
    )
    whole = RegularisationPath(train.features, train.labels)

    def score(step: int) -> float:
        whole.fit(step, 10 ** (step / 8))
        return accuracy_score(validation.labels, whole.predict(step, validation.features))

    expected = _search(score)
    without = len(passes)
    raced = _search(ValidationScorer(train, validation, accuracy_score).score)
    assert raced.step == expected.step
    assert max(raced.scores.values()) == pytest.approx(max(expected.scores.values()), abs=1e-3)
    assert len(passes) - without < 0.4 * without


def test_the_array_api_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's tensors, here on the CPU."""
    data, other = blobs(1, 300, 8, 4, 0.6), blobs(2, 300, 8, 4, 0.6)
    expected = _fit_and_predict(data, 1.0, other.features)
    dispatching, kinds = probe_search._dispatching, []

    def fitted(centred: Any, labels: Any, regularisation: float) -> LogisticRegression:
        classifier = _fit(centred, labels, regularisation)
        kinds.append(type(classifier.coef_).__module__)
        return classifier

    monkeypatch.setattr(probe_search, "_dispatching", lambda: dispatching("cpu"))
    monkeypatch.setattr(probe_search, "_fit", fitted)
    assert _fit_and_predict(data, 1.0, other.features).tolist() == expected.tolist()
    assert kinds == ["torch"]


def test_what_cannot_be_fitted_is_said_at_once() -> None:
    data = blobs(1, 50, 3, 3, 1.0)
    bad = data.features.copy()
    bad[7, 1] = np.nan
    one = LabelledFeatures(bad, np.zeros(50, int))
    with pytest.raises(ValueError, match="training features hold numbers that are not finite") as e:
        predictions(one, data, bad, accuracy_score)
    assert "test features hold" in str(e.value)
    assert "fewer than two classes" in str(e.value)

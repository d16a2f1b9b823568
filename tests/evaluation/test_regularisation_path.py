"""The search's fits beside scikit-learn's, in result and in cost."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from flava.evaluation import regularisation_path
from flava.evaluation.regularisation_path import RegularisationPath
from tests.evaluation.probing import count_passes, samples


def reference(features: np.ndarray, labels: np.ndarray, step: int) -> LogisticRegression:
    """By Newton's method, in 64 bits."""
    newton = LogisticRegression(C=10 ** (-step / 8), solver="newton-cg", max_iter=500, tol=1e-12)
    return newton.fit(features.astype(np.float64), labels)


# Where 64 bits give out, Newton's method says so.
@pytest.mark.filterwarnings("ignore:The line search", "ignore:Line Search failed")
@pytest.mark.parametrize("classes", [2, 5])
def test_a_path_passes_through_the_optima(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        regularisation_path, "BLOCK_LOGITS", 700
    )  # several blocks, the last one smaller
    (features, labels), (other, _) = samples(1, 400, classes), samples(2, 500, classes)
    found = RegularisationPath(features, labels)
    for step in (32, 0, 16, 8, -8):
        found.fit(step, 10 ** (step / 8))
        expected = reference(features, labels, step)
        weights = found.directions @ found.fitted[step][:-1]
        difference = (other - other.mean(axis=0)) @ (weights - weights.mean(axis=1, keepdims=True))
        logits = (other - other.mean(axis=0)) @ expected.coef_.T
        if classes == 2:
            logits = np.concatenate([-logits, logits], axis=1) / 2
        assert np.abs(difference - logits).max() < 0.02 * np.abs(logits).max()
        agree = found.predict(step, other) == expected.predict(other)
        assert agree.mean() >= 0.995


def test_a_start_lies_between_its_neighbours_on_a_line() -> None:
    features, labels = samples(1, 100, 3, width=4)
    found = RegularisationPath(features, labels)
    assert not found.start(0).any()
    for step in (16, 0, 8):
        found.fit(step, 10 ** (step / 8))
    assert (found.start(24) == found.fitted[16]).all()
    assert (found.start(-1) == found.fitted[0]).all()
    np.testing.assert_allclose(
        found.start(10), 0.75 * found.fitted[8] + 0.25 * found.fitted[16], rtol=1e-12
    )


def test_the_gradient_is_that_of_the_loss() -> None:
    features, labels = samples(1, 50, 3, width=5)
    found = RegularisationPath(features, labels)
    rng = np.random.default_rng(0)
    units, penalty = rng.uniform(0.01, 0.1, (6, 1)), np.array([[2.0]] * 5 + [[0.0]])
    point, direction = rng.normal(size=(2, 18))
    _, gradient = found.loss(units, penalty, point)
    step = 0.01
    after, before = (found.loss(units, penalty, point + s * direction)[0] for s in (step, -step))
    assert (after - before) / (2 * step) == pytest.approx(gradient @ direction, rel=1e-3)


def test_a_component_without_variance_has_no_weight() -> None:
    """As where a feature is constant, or there are fewer samples than features."""
    features, labels = samples(1, 30, 2)
    found = RegularisationPath(features, labels)
    found.fit(0, 1.0)
    assert np.isfinite(found.fitted[0]).all()
    expected = reference(features, labels, 0)
    assert (found.predict(0, features) == expected.predict(features)).all()


def test_a_fit_that_cannot_win_ends_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = count_passes(monkeypatch)
    features, labels = samples(1, 400, 5)
    found = RegularisationPath(features, labels)
    shown: list[np.ndarray] = []

    def cannot_win() -> bool:
        shown.append(found.fitted[0])
        return len(shown) == 2

    found.fit(0, 1e-4, cannot_win)
    assert 2 * regularisation_path.CHECK_EVERY < len(passes) < 3 * regularisation_path.CHECK_EVERY
    assert (shown[0] != shown[1]).any()
    np.testing.assert_array_equal(found.fitted[0], shown[1])


def test_a_sweep_costs_less_than_four_fits_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """In passes over the data, of which an iteration of scikit-learn takes one at least."""
    passes = count_passes(monkeypatch)
    features, labels = samples(1, 2000, 10)
    found = RegularisationPath(features, labels)
    for step in (48, 32, 16, 0, -16, -32, -48, 8, -8, 12, 4, 10, 6, 9, 7):  # the search's
        found.fit(step, 10 ** (step / 8))
    cold = LogisticRegression(C=0.1, max_iter=1000, tol=1e-4 / len(labels))
    cold.fit(features - features.mean(axis=0), labels)
    assert len(passes) < 4 * cold.n_iter_[0]

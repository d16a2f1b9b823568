import numpy as np
import pytest

from flava.evaluation.linear_probe import LabelledFeatures, fit_probe, pca_of_pixels


def clusters(
    rng: np.random.Generator, n: int, distance: float, width: int = 10
) -> LabelledFeatures:
    """Three clusters along three axes, unit noise around them."""
    labels = rng.integers(0, 3, n)
    return LabelledFeatures(distance * np.eye(width)[labels] + rng.normal(size=(n, width)), labels)


def test_separable_classes_are_separated_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    apart = [clusters(rng, n, distance=12) for n in (300, 100, 200)]
    assert fit_probe(apart[0], apart[1]).accuracy(apart[2]) == 1
    noise = [clusters(rng, n, distance=0) for n in (300, 100, 900)]
    assert fit_probe(noise[0], noise[1]).accuracy(noise[2]) == pytest.approx(1 / 3, abs=0.06)


def test_scale_and_place_of_the_features_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    data = [clusters(rng, n, distance=2) for n in (200, 100, 400)]
    moved = [LabelledFeatures(1000 * each.features + 7, each.labels) for each in data]
    plain = fit_probe(data[0], data[1]).accuracy(data[2])
    assert fit_probe(moved[0], moved[1]).accuracy(moved[2]) == pytest.approx(plain, abs=0.011)


def test_the_validation_images_choose_the_regularisation() -> None:
    """Few samples, many useless dimensions: weak regularisation fits noise, and is not chosen."""
    rng = np.random.default_rng(2)
    train, test = clusters(rng, 60, 1.5, width=300), clusters(rng, 600, 1.5, width=300)
    chosen = fit_probe(train, clusters(rng, 600, 1.5, width=300))
    assert chosen.classifier.C <= 0.1
    flattered = fit_probe(train, train)
    assert flattered.accuracy(train) == 1
    assert chosen.accuracy(test) >= flattered.accuracy(test)


def test_features_that_are_all_the_same_give_the_commonest_class() -> None:
    labels = np.array(["a"] * 6 + ["b"] * 3)
    constant = LabelledFeatures(np.ones((9, 4)), labels)
    assert fit_probe(constant, constant).accuracy(constant) == pytest.approx(6 / 9)


def test_features_that_are_not_finite_are_an_error() -> None:
    bad = LabelledFeatures(np.full((4, 2), np.inf), np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="not finite: the model has diverged"):
        fit_probe(bad, bad)


def test_components_are_those_of_the_covariance_in_their_order() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.normal(size=(400, 6)) * [9, 6, 4, 0.3, 0.2, 0.1]
    found = pca_of_pixels(pixels, 3, seed=0).transform(pixels)
    values, vectors = np.linalg.eigh(np.cov(pixels.T))
    expected = (pixels - pixels.mean(axis=0)) @ vectors[:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert (np.diff(values) > 0).all()
    assert pca_of_pixels(pixels, 100, seed=0).n_components_ == 6

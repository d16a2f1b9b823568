"""The pure loss functions beside brute force in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flava.core.distributed import Gather
from flava.objectives.losses import answering, classification, contrastive, regression


def cross_entropies(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """By the definition, in 64 bits."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([-np.log(probabilities[i, t]) for i, t in enumerate(targets)])


@given(st.integers(1, 9), st.integers(2, 7), st.integers(0, 1000))
def test_classification(n: int, classes: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits = 3 * draw.standard_normal((n, classes)).astype(np.float32)
    targets = draw.integers(classes, size=n)
    term = classification(torch.tensor(logits), torch.tensor(targets))
    expected = cross_entropies(logits.astype(np.float64), targets).mean()
    assert term.loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    right = sum(int(row.argmax() == target) for row, target in zip(logits, targets, strict=True))
    assert term.accuracy == pytest.approx(right / n)


def test_nothing_to_classify_is_zero_with_a_gradient_of_zero() -> None:
    weight = torch.ones(4, 3, requires_grad=True)
    term = classification(torch.zeros(0, 4) @ weight, torch.zeros(0, dtype=torch.int64))
    assert (term.loss.item(), term.accuracy) == (0, None)
    term.loss.backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_losses_of_halves_are_taken_in_32_bits() -> None:
    """In 16 bits, 1000 equal classes would give ln 1000 = 6.908 to two digits only."""
    logits = torch.zeros(5, 1000, dtype=torch.bfloat16)
    term = classification(logits, torch.arange(5))
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(np.log(1000), rel=1e-6)


def unit_vectors(rows: int, width: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("rows", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 1, 0]])
@pytest.mark.parametrize("reach", Gather)
def test_contrast(rows: list[int], reach: Gather) -> None:
    image, text = unit_vectors(5, 4), unit_vectors(5, 4)
    term = contrastive(image, text, torch.tensor(1.3), torch.tensor(rows).bool(), reach)
    logits = np.exp(1.3) * image.numpy() @ text.numpy().T
    kept = np.flatnonzero(rows)
    # A mismatched pair asks no question, but remains a wrong answer to the others'.
    by_image, by_text = (cross_entropies(s, np.arange(5))[kept] for s in (logits, logits.T))
    assert term.loss.item() == pytest.approx((by_image.mean() + by_text.mean()) / 2, rel=1e-5)
    right = [logits[i].argmax() == i for i in kept] + [logits[:, i].argmax() == i for i in kept]
    assert term.accuracy == pytest.approx(np.mean(right))


def test_accuracy_of_contrast_at_its_ends() -> None:
    vectors, scale, everyone = torch.eye(4), torch.tensor(2.0), torch.ones(4, dtype=torch.bool)
    right = contrastive(vectors, vectors, scale, everyone, Gather.GLOBAL)
    wrong = contrastive(vectors, vectors.roll(1, 0), scale, everyone, Gather.GLOBAL)
    assert (right.accuracy, wrong.accuracy) == (1, 0)
    assert right.loss < wrong.loss


def test_contrast_of_one_pair_is_zero_with_a_gradient_of_zero() -> None:
    image, text = (unit_vectors(1, 4).requires_grad_() for _ in range(2))
    term = contrastive(image, text, torch.tensor(1.0), torch.tensor([True]), Gather.GLOBAL)
    term.loss.backward()
    assert (term.loss.item(), term.accuracy) == (0, 1)
    for features in (image, text):
        assert features.grad is not None
        assert not features.grad.any()


def test_contrast_without_a_row_is_zero_with_a_gradient_of_zero() -> None:
    image, text = (unit_vectors(3, 4).requires_grad_() for _ in range(2))
    none = torch.zeros(3, dtype=torch.bool)
    term = contrastive(image, text, torch.tensor(1.0), none, Gather.GLOBAL)
    term.loss.backward()
    assert (term.loss.item(), term.accuracy) == (0, None)
    for features in (image, text):
        assert features.grad is not None
        assert not features.grad.any()


def test_the_scale_learns_to_sharpen_what_is_right() -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    everyone = torch.ones(4, dtype=torch.bool)
    contrastive(torch.eye(4), torch.eye(4), scale, everyone, Gather.GLOBAL).loss.backward()
    assert scale.grad is not None
    assert scale.grad < 0


def test_answers_are_decided_each_for_itself_and_summed_over_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, answers = torch.randn(3, 5, generator=generator), torch.rand(3, 5, generator=generator)
    right = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    shares = answers.numpy()
    each = -(shares * np.log(right) + (1 - shares) * np.log(1 - right))
    term = answering(logits, answers)
    assert term.loss.item() == pytest.approx(each.sum(axis=1).mean(), rel=1e-5)
    best = shares[np.arange(3), logits.numpy().argmax(axis=1)]
    assert term.accuracy == pytest.approx(best.mean(), rel=1e-5)


def test_scores_have_the_mean_squared_error() -> None:
    term = regression(torch.tensor([[0.5], [2.0]]), torch.tensor([0.0, 1.0]))
    assert term.loss.item() == pytest.approx((0.25 + 1.0) / 2)
    assert term.accuracy is None

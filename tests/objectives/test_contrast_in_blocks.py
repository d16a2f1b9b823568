"""Contrast in blocks beside the undivided computation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from flava.core.distributed import Gather
from flava.objectives import losses
from flava.objectives.losses import _log_sums, _log_sums_both_ways, contrastive


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "BLOCK_SIZE", 3)
        yield


def vectors(rows: int, seed: int = 0, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return normalize(values, dim=1).requires_grad_()


SIZES = st.integers(1, 8)


@given(SIZES, SIZES, st.floats(0.5, 100))
def test_sums_and_largest_of_rows_and_columns(n, m, scale):
    questions, answers = vectors(n, 1), vectors(m, 2)
    logits = scale * questions @ answers.T
    factor = torch.tensor(scale, dtype=torch.float64)
    alone = _log_sums(questions, answers, factor)
    rows, columns = _log_sums_both_ways(questions, answers, factor)
    torch.testing.assert_close(alone.values, logits.logsumexp(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows.values, logits.logsumexp(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(columns.values, logits.logsumexp(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(alone.argmax, logits.argmax(1))
    assert torch.equal(rows.argmax, logits.argmax(1))
    assert torch.equal(columns.argmax, logits.argmax(0))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_gradients_by_finite_differences(scale):
    inputs = vectors(7, 1), vectors(5, 2), torch.tensor(scale, dtype=torch.float64).requires_grad_()

    def one(*each: Tensor) -> Tensor:
        return _log_sums(*each).values

    def both(*each: Tensor) -> tuple[Tensor, ...]:
        return tuple(sums.values for sums in _log_sums_both_ways(*each))

    assert torch.autograd.gradcheck(one, inputs)
    assert torch.autograd.gradcheck(both, inputs)


def contrast(
    rows: Tensor, reach: Gather, dtype: torch.dtype
) -> tuple[float, Tensor | None, list[Tensor]]:
    image, text = (vectors(len(rows), seed).detach().to(dtype).requires_grad_() for seed in (1, 2))
    scale = torch.tensor(1.3, dtype=dtype, requires_grad=True)
    term = contrastive(image, text, scale, rows, reach, ranks=3)
    term.loss.backward()
    assert image.grad is not None
    assert text.grad is not None
    assert scale.grad is not None
    return term.loss.item(), term.accuracy, [image.grad, text.grad, scale.grad]


@pytest.mark.parametrize("rows", [[1] * 10, [1, 0, 1, 1, 0, 1, 1, 0, 1, 0], [0] * 9 + [1]])
@pytest.mark.parametrize("reach", Gather)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_that_of_the_undivided_batch(monkeypatch, rows, reach, dtype):
    kept = torch.tensor(rows, dtype=torch.bool)
    loss, accuracy, gradients = contrast(kept, reach, dtype)
    monkeypatch.setattr(losses, "MAX_LOGITS_AT_ONCE", 0)
    in_blocks, its_accuracy, its_gradients = contrast(kept, reach, dtype)
    # The undivided loss is taken in 32 bits whatever the features are.
    assert in_blocks == pytest.approx(loss, rel=1e-6)
    assert its_accuracy == accuracy
    torch.testing.assert_close(its_gradients, gradients, rtol=1e-5, atol=1e-7)


def test_without_a_row_there_is_nothing_to_divide(monkeypatch):
    monkeypatch.setattr(losses, "MAX_LOGITS_AT_ONCE", 0)
    loss, accuracy, gradients = contrast(
        torch.zeros(4, dtype=torch.bool), Gather.GLOBAL, torch.float32
    )
    assert (loss, accuracy) == (0, None)
    assert not any(gradient.any() for gradient in gradients)


def test_logits_in_blocks_are_not_rounded_to_16_bits(monkeypatch):
    monkeypatch.setattr(losses, "MAX_LOGITS_AT_ONCE", 0)
    kept = torch.ones(10, dtype=torch.bool)
    loss, _, gradients = contrast(kept, Gather.GLOBAL, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _, mixed_gradients = contrast(kept, Gather.GLOBAL, torch.float32)
    assert mixed == loss
    torch.testing.assert_close(mixed_gradients, gradients)


@pytest.mark.parametrize("both", [False, True])
def test_no_more_than_blocks_is_held(monkeypatch, both):
    """The largest tensor that either pass makes, beyond what is as large as the inputs."""
    n, width, side = 96, 4, 8
    monkeypatch.setattr(losses, "BLOCK_SIZE", side)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().size())
            return result

    image, text, scale = vectors(n, 1), vectors(n, 2), torch.tensor(2.0, dtype=torch.float64)
    with Watch():
        if both:
            found = torch.stack([each.values for each in _log_sums_both_ways(image, text, scale)])
        else:
            found = _log_sums(image, text, scale).values
        found.sum().backward()
    assert largest <= 8 * max(side * side, 2 * n, n * width)

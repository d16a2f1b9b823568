"""Attention of packed samples: by length, and by a GPU's kernel, which is spelt out here by its
documentation."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from flava.models import attention, packing
from flava.models.attention import _attend_by_length, _can_use_varlen, _should_group_by_length
from flava.models.packing import Packing
from flava.models.transformer import Transformer, TransformerConfig
from flava.planning.costs import _as_on_gpu, _fake_tensor
from flava.training.parallel import prepare_blocks

LENGTHS = torch.tensor([21, 1, 5, 7, 5, 2, 11, 7, 5])
LONGEST, WIDTH = 21, 24
REAL = torch.arange(LONGEST) < LENGTHS[:, None]
SOME = REAL & (torch.arange(LONGEST) % 3 == 0)
SOME[3] = False  # of one sample nothing is read, as of a text without a masked token


def segments(bounds: Tensor, longest: int) -> Iterator[slice]:
    starts, ends = bounds[:-1].tolist(), bounds[1:].tolist()
    assert longest == max(end - start for start, end in zip(starts, ends, strict=True))
    return map(slice, starts, ends)


def one_after_the_other(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    longest_query: int,
    longest_key: int,
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn`: what belongs to no segment is not written to."""
    found = torch.full_like(query, torch.nan)
    queries, keys = segments(query_bounds, longest_query), segments(key_bounds, longest_key)
    for own, known in zip(queries, keys, strict=True):
        scores = torch.einsum("qhs,khs->hqk", query[own], key[known]) / query.shape[-1] ** 0.5
        found[own] = torch.einsum("hqk,khs->qhs", scores.softmax(dim=-1), value[known])
    return found


def some_transformer(depth: int) -> Transformer:
    torch.manual_seed(0)
    config = TransformerConfig(width=WIDTH, depth=depth, heads=3, mlp_width=20)
    return Transformer(config).double()


def values_and_gradients(
    transformer: Transformer, output_positions: Tensor | None, *, causal: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Those of every parameter and of what goes in."""
    torch.manual_seed(1)
    states = torch.randn(len(LENGTHS), LONGEST, WIDTH, dtype=torch.float64, requires_grad=True)
    seen = REAL if output_positions is None else output_positions
    found = transformer.run_blocks(states, REAL, output_positions, causal=causal)[seen]
    wanted = [states, *transformer.blocks.parameters()]
    total = (found * torch.randn(found.shape, dtype=torch.float64)).sum()
    return found, list(torch.autograd.grad(total, wanted))


def never(*_: object) -> bool:
    return False


def always(*_: object) -> bool:
    return True


def send_to_kernel(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Tensor]) -> None:
    """All packed samples, as on a GPU."""
    without = Packing.of

    def of(attention_mask: Tensor, like: Tensor, order: Tensor | None = None) -> Packing:
        found = without(attention_mask, like, order)
        sums = torch.tensor([0, *accumulate(found.lengths)], dtype=torch.int32)
        return replace(found, cu_seqlens=sums)

    monkeypatch.setattr(packing, "TOKEN_MULTIPLE", 1)
    monkeypatch.setattr(Packing, "of", staticmethod(of))
    monkeypatch.setattr(attention, "_can_use_varlen", always)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)


@pytest.mark.parametrize("output_positions", [None, SOME], ids=["all", "some"])
@pytest.mark.parametrize("depth", [1, 3])
def test_segments_are_attended_to_as_padded_samples_are(
    output_positions: Tensor | None, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer, calls = some_transformer(depth), []
    monkeypatch.setattr(attention, "_should_group_by_length", never)
    expected = values_and_gradients(transformer, output_positions)

    def kernel(*args: Any) -> Tensor:
        calls.append(args)
        return one_after_the_other(*args)

    send_to_kernel(monkeypatch, kernel)
    torch.testing.assert_close(values_and_gradients(transformer, output_positions), expected)
    assert len(calls) == depth


def programs_compiled(*, on_gpu: bool) -> list[int]:
    """How many there are after each of four batches of other lengths."""
    kernel = torch.library.custom_op("flava_tests::segments", one_after_the_other, mutates_args=())
    kernel.register_fake(lambda query, *_: torch.empty_like(query))
    programs, transformer, counts = CompileCounter(), some_transformer(depth=3), []
    counting = partial(torch.compile, backend=programs, fullgraph=True)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as monkeypatch:
        if on_gpu:
            send_to_kernel(monkeypatch, kernel)
        # On CPUs the scores of the first two batches are computed at once, if it is not compiled.
        monkeypatch.setattr(attention, "MAX_SCORES_AT_ONCE", 3 * 3 * 10**2)
        monkeypatch.setattr(torch, "compile", counting)
        prepare_blocks(transformer, checkpointed=False, compiled=True)
        for lengths in ([9, 4, 2], [5, 7, 4], [3, 3, 12], [11, 2, 6]):
            attention_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            states = torch.randn(*attention_mask.shape, WIDTH, dtype=torch.float64)
            transformer.run_blocks(
                states, attention_mask, attention_mask & (torch.arange(max(lengths)) < 2)
            )
            counts.append(programs.frame_count)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("on_gpu", [True, False])
def test_no_number_of_a_packing_is_a_constant_to_the_compiler(on_gpu: bool) -> None:
    """With the kernel as one operation, as torch has it."""
    with get_context("spawn").Pool(1) as without_type_checks:
        counts = without_type_checks.apply(programs_compiled, kwds={"on_gpu": on_gpu})
    assert counts == [counts[0]] * 4


@pytest.mark.parametrize("causal", [True, False])
def test_lengths_are_attended_to_as_padded_samples_are(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer, calls = some_transformer(depth=3), []
    monkeypatch.setattr(attention, "_should_group_by_length", never)
    expected = values_and_gradients(transformer, None, causal=causal)

    def counted(*args: Any, **more: Any) -> Tensor:
        calls.append(args)
        return _attend_by_length(*args, **more)

    monkeypatch.setattr(attention, "_should_group_by_length", always)
    monkeypatch.setattr(attention, "_attend_by_length", counted)
    torch.testing.assert_close(values_and_gradients(transformer, None, causal=causal), expected)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("lengths", "dtype", "taken"),
    [
        ([9, 9, 9], torch.bfloat16, True),
        ([9, 8, 7], torch.bfloat16, False),
        ([200, 8, 7], torch.bfloat16, True),
        ([9, 8, 7], torch.float32, True),
    ],
    ids=["no padding", "little padding", "much padding", "32 bits"],
)
def test_lengths_are_taken_where_padding_costs_more_than_calls(
    lengths: list[int], dtype: torch.dtype, taken: bool
) -> None:
    attention_mask = torch.arange(200) < torch.tensor(lengths)[:, None]
    query = torch.empty(sum(lengths), 3, 8, dtype=dtype)
    assert _should_group_by_length(query, Packing.of(attention_mask, query)) is taken
    on_gpu = _fake_tensor(query)
    with _as_on_gpu():
        assert not _should_group_by_length(on_gpu, Packing.of(attention_mask, on_gpu))


def on_paper(tokens: int, size: int, dtype: torch.dtype) -> Tensor:
    """A query that seems to be on a GPU within `_as_on_gpu`."""
    return _fake_tensor(torch.empty(tokens, 3, size, dtype=dtype))


PADDING = torch.ones(2, 1, 1, 9, dtype=torch.bool)
CAUSAL = PADDING & torch.ones(9, 9, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("query", "mask", "taken"),
    [
        (on_paper(5, 8, torch.bfloat16), PADDING, True),
        (on_paper(5, 8, torch.float16), PADDING, True),
        (on_paper(5, 8, torch.float32), PADDING, False),
        (on_paper(5, 12, torch.bfloat16), PADDING, False),
        (on_paper(0, 8, torch.bfloat16), PADDING, False),
        (on_paper(5, 8, torch.bfloat16), CAUSAL, False),
        (torch.empty(5, 3, 8, dtype=torch.bfloat16), PADDING, False),
    ],
    ids=["bf16", "fp16", "fp32", "heads of 12", "no query", "causal", "on the CPU"],
)
def test_what_the_kernel_takes(query: Tensor, mask: Tensor, taken: bool) -> None:
    with _as_on_gpu():
        assert _can_use_varlen(query, Packing.of(PADDING[:, 0, 0], query), mask) is taken

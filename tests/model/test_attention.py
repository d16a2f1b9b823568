"""Attention over packed tokens by segments: a GPU's kernel, spelt out here by its documentation."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import flava.model.attention
import flava.model.packing
import flava.model.transformer
from flava.model.attention import takes_segments
from flava.model.transformer import Transformer, TransformerConfig
from flava.training.outline import Outline, twin_of

LENGTHS = torch.tensor([21, 1, 5, 7, 20, 3, 11, 14, 2])
LONGEST, WIDTH = 21, 24


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
    most_queries: int,
    most_keys: int,
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn`: what belongs to no segment is not written to."""
    found = torch.full_like(query, torch.nan)
    queries, keys = segments(query_bounds, most_queries), segments(key_bounds, most_keys)
    for own, known in zip(queries, keys, strict=True):
        scores = torch.einsum("qhs,khs->hqk", query[own], key[known]) / query.shape[-1] ** 0.5
        found[own] = torch.einsum("hqk,khs->qhs", scores.softmax(dim=-1), value[known])
    return found


@pytest.mark.parametrize("read_all", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_segments_are_attended_to_as_padded_samples_are(
    read_all: bool, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, and the gradients of every parameter and of what goes in."""
    torch.manual_seed(0)
    config = TransformerConfig(width=WIDTH, depth=depth, heads=3, mlp_width=20)
    transformer = Transformer(config).double()
    states = torch.randn(len(LENGTHS), LONGEST, WIDTH, dtype=torch.float64)
    real = torch.arange(LONGEST) < LENGTHS[:, None]
    read = real if read_all else real & (torch.rand(real.shape) < 0.3)
    weight = torch.randn(int(read.sum()), WIDTH, dtype=torch.float64)

    def run() -> tuple[Tensor, list[Tensor]]:
        given = states.clone().requires_grad_()
        found = transformer.run_blocks(given, real, None if read_all else read)[read]
        wanted = [given, *transformer.blocks.parameters()]
        return found, list(torch.autograd.grad((found * weight).sum(), wanted))

    expected, expected_gradients = run()
    asked: list[bool] = []
    monkeypatch.setattr(flava.model.packing, "GRAIN", 1)  # as for a GPU
    monkeypatch.setattr(
        flava.model.transformer, "takes_segments", lambda *_: asked.append(True) or True
    )
    monkeypatch.setattr(flava.model.attention, "segment_kernel", lambda: one_after_the_other)
    found, gradients = run()
    assert len(asked) == depth
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients, expected_gradients)


def on_paper(tokens: int, size: int, dtype: torch.dtype) -> Tensor:
    """As if on a GPU."""
    return Outline(twin_of(torch.empty(tokens, 3, size, dtype=dtype)))


PADDING = torch.ones(2, 1, 1, 9, dtype=torch.bool)
CAUSAL = PADDING & torch.ones(9, 9, dtype=torch.bool).tril()


@pytest.mark.skipif(
    flava.model.attention.segment_kernel() is None, reason="torch has it since its version 2.10"
)
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
    assert takes_segments(query, mask) is taken

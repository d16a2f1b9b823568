"""Packing: the real tokens in order, filled up to a round number, and back again."""

from itertools import accumulate

import torch
from hypothesis import given
from hypothesis import strategies as st

from flava.models.packing import TOKEN_MULTIPLE, Packing, select_masked
from flava.planning.costs import _as_on_gpu, _fake_tensor


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0, 1))
def test_packing_keeps_the_real_tokens_and_unpacking_puts_them_back(
    batch: int, length: int, share: float
) -> None:
    attention_mask = torch.rand(batch, length) < share
    padded = torch.arange(1.0, 1 + 3 * attention_mask.numel()).view(*attention_mask.shape, 3)
    packing = Packing.of(attention_mask, padded)
    packed, count = packing.pack(padded), int(attention_mask.sum())
    from_short_to_long = sorted(range(batch), key=lambda i: int(attention_mask[i].sum()))
    each = [padded[i][attention_mask[i]].tolist() for i in from_short_to_long]
    assert packed[:count].tolist() == [token for tokens in each for token in tokens]
    with _as_on_gpu():
        on_gpu = Packing.of(attention_mask, _fake_tensor(padded)).cu_seqlens
    assert on_gpu is None or on_gpu.tolist() == [0, *accumulate(map(len, each))]
    assert [length for length, n in packing.groups for _ in range(n)] == list(map(len, each))
    assert len(packed) == min(-(-count // TOKEN_MULTIPLE) * TOKEN_MULTIPLE, attention_mask.numel())
    assert packing.unpack(packed)[attention_mask].tolist() == padded[attention_mask].tolist()
    assert set(packing.unpack(packed).flatten().tolist()) <= {0.0, *padded.flatten().tolist()}


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0, 1))
def test_what_is_spread_is_the_same_for_all_tokens_of_a_text(
    batch: int, length: int, share: float
) -> None:
    whose = torch.arange(float(batch))
    padded = whose[:, None, None].expand(batch, length, 1)
    packing = Packing.of(torch.rand(batch, length) < share, padded)
    assert packing.repeat_per_token(whose).tolist() == packing.pack(padded)[:, 0].tolist()


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), rest=st.integers(0, 2))
def test_what_is_picked_is_what_indexing_gives(shape: list[int], rest: int) -> None:
    where = torch.rand(shape) < 0.5
    values = torch.randn(*shape, *[3, 2][:rest])
    torch.testing.assert_close(select_masked(values, where), values[where], rtol=0, atol=0)

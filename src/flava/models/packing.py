"""Packing: a padded batch of token states, computed without its padding.

A batch of texts is padded to its longest text, so that it is one tensor (batch, length, width).
Linear layers, norms and MLPs work on each token by itself, and need not compute padding. So a
transformer packs the batch first, works on packed tokens, and unpacks the result::

    padded batch (2, 4, width)      packed tokens (5, width)      padded again (2, 4, width)

    a1 a2 .  .                 ->   a1 a2 b1 b2 b3           ->   a1 a2 0  0
    b1 b2 b3 .                                                    b1 b2 b3 0

Only attention looks at several tokens. It knows from the `Packing` which tokens belong to the same
sample (see `attention`).

The number of tokens decides the shapes, so masks are best kept on the host: there it is known
without waiting for the device.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int32, Shaped
from torch import Tensor
from torch.nn import functional

TOKEN_MULTIPLE = 64
"""On CPUs the number of packed tokens is rounded up to a multiple of this, with tokens of padding:
for a matrix product of a new size, the CPU's library needs a third more time to prepare (docs/
log.md). GPUs do not need it, and their attention over packed tokens leaves undefined what belongs
to no sample."""


@dataclass(frozen=True)
class Packing:
    """Which tokens of a padded batch are packed, and in which order.

    Samples are ordered from short to long, so that those of equal length are next to each other.
    """

    mask: Bool[Tensor, "batch length"]
    """True at the tokens of the padded batch that are packed."""
    indices: Int[Tensor, " tokens"]
    """Index of each packed token in the flattened padded batch; those of rounding up come last."""
    lengths: tuple[int, ...]
    """Number of tokens of each sample, in the order of ``indices``."""
    max_length: int
    """The largest of them."""
    cu_seqlens: Int32[Tensor, " batch+1"] | None
    """Cumulative lengths: sample i is packed from [i] to [i + 1]. None if `varlen_attn`, which
    reads them, cannot be used."""

    @classmethod
    def of(
        cls,
        mask: Bool[Tensor, "batch length"],
        like: Shaped[Tensor, "..."],
        order: Int[Tensor, " batch"] | None = None,
    ) -> "Packing":
        """The packing of the tokens where ``mask`` is True, for states on the device of ``like``.

        ``order`` are the samples in another order than from short to long.
        """
        device = like.device
        multiple = TOKEN_MULTIPLE if device.type == "cpu" else 1
        if order is None:
            order = order_by_length(mask)
        lengths, width = mask.sum(dim=1)[order], mask.shape[1]
        tokens = math.ceil(int(lengths.sum()) / multiple) * multiple
        # A stable sort by "is padding" puts the tokens of all samples first.
        places = (~mask[order]).flatten().int().argsort(stable=True)[:tokens]
        indices = order[places // width] * width + places % width
        cu_seqlens = None
        if like.is_cuda and _has_varlen_attention(device):
            cu_seqlens = functional.pad(lengths.cumsum(0), (1, 0)).int()
            cu_seqlens = cu_seqlens.to(device, non_blocking=True)
        lengths_list = tuple(lengths.tolist())
        return cls(
            mask=mask,
            indices=indices.to(device, non_blocking=True),
            lengths=lengths_list,
            max_length=max(lengths_list, default=0),
            cu_seqlens=cu_seqlens,
        )

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """The packed samples as (length, number of consecutive samples of that length)."""
        return tuple((length, len(list(same))) for length, same in groupby(self.lengths))

    @cached_property
    def padded_scores(self) -> int:
        """The number of attention scores, per head, that only padding adds to the padded batch."""
        return len(self.lengths) * self.max_length**2 - sum(each**2 for each in self.lengths)

    def pack(self, padded: Shaped[Tensor, "batch length *rest"]) -> Shaped[Tensor, "tokens *rest"]:
        """The tokens of a padded batch, one after another."""
        return padded.flatten(0, 1).index_select(0, self.indices)

    def unpack(
        self, packed: Shaped[Tensor, "tokens *rest"]
    ) -> Shaped[Tensor, "batch length *rest"]:
        """The padded batch again, with zeros at the tokens that are not packed."""
        padded = ScatterRows.apply(packed, self.indices, self.mask.numel())
        return padded.unflatten(0, self.mask.shape)

    def repeat_per_token(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " tokens"]:
        """A value of each sample, repeated for each of its packed tokens."""
        return values.index_select(0, self.indices // self.mask.shape[1])


def unpack_if_packed(
    states: Shaped[Tensor, "..."], packing: Packing | None
) -> Shaped[Tensor, "batch length *rest"]:
    """The padded batch of ``states``, which are packed if there is a ``packing``."""
    return states if packing is None else packing.unpack(states)


def order_by_length(mask: Bool[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
    """The indices of the samples, from short to long."""
    return mask.sum(dim=1).argsort(stable=True)


@cache
def _has_varlen_attention(device: torch.device) -> bool:
    """Whether torch's `varlen_attn` works on this device: on NVIDIA GPUs from Ampere on.

    True for the CPU, which stands for a GPU where runs are planned (`flava.planning.costs`).
    """
    if device.type != "cuda":
        return True
    return (
        not torch.version.hip
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
    )


class ScatterRows(torch.autograd.Function):
    """Rows at ``indices`` of a tensor of zeros.

    As ``zeros.index_copy``, but that would keep all rows for the backward pass, which needs only
    their indices.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Float[Tensor, "rows *rest"], indices: Int[Tensor, " rows"], count: int
    ) -> Float[Tensor, "count *rest"]:
        ctx.save_for_backward(indices)
        return rows.new_zeros(count, *rows.shape[1:]).index_copy_(0, indices, rows)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "count *rest"]
    ) -> tuple[Float[Tensor, "rows *rest"], None, None]:
        (indices,) = ctx.saved_tensors
        return gradient.index_select(0, indices), None, None


def select_masked(
    values: Shaped[Tensor, "..."], mask: Bool[Tensor, "*places"]
) -> Shaped[Tensor, "picked ..."]:
    """``values[mask]``, without waiting for the device of ``values`` if ``mask`` is on the host."""
    indices = mask.flatten().nonzero()[:, 0].to(values.device, non_blocking=True)
    return values.flatten(0, mask.ndim - 1).index_select(0, indices)

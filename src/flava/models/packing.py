"""Padded batches without their padding: what is computed token by token costs nothing for it.

How many tokens there are decides the shapes, so masks are best kept on the host: there it is known
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

GRAIN = 64
"""Packed tokens are a multiple of this where the batch has as many: a matrix product of a size not
seen before costs the CPU's library a third more, to prepare for it (docs/log.md). GPUs have no need
of it, and their attention over packed tokens leaves undefined what belongs to no sample."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens to compute stand in a padded batch: the real ones, then a few others."""

    kept: Bool[Tensor, "batch length"]
    rows: Int[Tensor, " tokens"]
    lengths: tuple[int, ...]
    """Real tokens of each sample, in the order of ``rows``."""
    longest: int
    """The largest of them."""
    bounds: Int32[Tensor, " batch+1"] | None
    """Their sums up to each sample, and of all, where there is a kernel that asks for them."""

    @classmethod
    def of(
        cls,
        kept: Bool[Tensor, "batch length"],
        like: Shaped[Tensor, "..."],
        order: Int[Tensor, " batch"] | None = None,
    ) -> "Packing":
        """For states on the device of ``like``; samples in that order, or from short to long."""
        device = like.device
        grain = GRAIN if device.type == "cpu" else 1
        if order is None:
            order = by_length(kept)
        lengths, width = kept.sum(dim=1)[order], kept.shape[1]
        tokens = math.ceil(int(lengths.sum()) / grain) * grain
        places = (~kept[order]).flatten().int().argsort(stable=True)[:tokens]
        rows = order[places // width] * width + places % width
        bounds = None
        if like.is_cuda and has_segment_kernel(device):
            bounds = functional.pad(lengths.cumsum(0), (1, 0)).int()
            bounds = bounds.to(device, non_blocking=True)
        listed = tuple(lengths.tolist())
        return cls(
            kept=kept,
            rows=rows.to(device, non_blocking=True),
            lengths=listed,
            longest=max(listed, default=0),
            bounds=bounds,
        )

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Lengths, and how many samples of that length stand one after another."""
        return tuple((length, len(list(same))) for length, same in groupby(self.lengths))

    @cached_property
    def padding(self) -> int:
        """Pairs of tokens in the padded batch that are no sample's own."""
        return len(self.lengths) * self.longest**2 - sum(each**2 for each in self.lengths)

    def pack(self, padded: Shaped[Tensor, "batch length *rest"]) -> Shaped[Tensor, "tokens *rest"]:
        """The tokens to compute, one after another."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def spread(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " tokens"]:
        """A value of each text -> that of each of its tokens to compute."""
        return values.index_select(0, self.rows // self.kept.shape[1])

    def unpack(
        self, packed: Shaped[Tensor, "tokens *rest"]
    ) -> Shaped[Tensor, "batch length *rest"]:
        """Padded again, with zeros where nothing was computed."""
        padded = Placed.apply(packed, self.rows, self.kept.numel())
        return padded.unflatten(0, self.kept.shape)


def unpacked(
    states: Shaped[Tensor, "..."], packing: Packing | None
) -> Shaped[Tensor, "batch length *rest"]:
    """Padded, as they are if nothing was packed."""
    return states if packing is None else packing.unpack(states)


def by_length(kept: Bool[Tensor, "batch length"]) -> Int[Tensor, " batch"]:
    """The samples from short to long."""
    return kept.sum(dim=1).argsort(stable=True)


@cache
def has_segment_kernel(device: torch.device) -> bool:
    """Whether torch can attend to packed samples here: on NVIDIA's GPUs from Ampere on.

    The CPU stands for the GPU that a run is planned for (`flava.planning.costs`).
    """
    if device.type != "cuda":
        return True
    return (
        not torch.version.hip
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and torch.backends.cuda.is_flash_attention_available()
    )


class Placed(torch.autograd.Function):
    """Rows in their places among zeros: ``zeros.index_copy``, which would keep all the rows for the
    backward pass, where only their places are needed."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "rows *rest"], rows: Int[Tensor, " rows"], count: int
    ) -> Float[Tensor, "count *rest"]:
        ctx.save_for_backward(rows)
        return values.new_zeros(count, *values.shape[1:]).index_copy_(0, rows, values)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "count *rest"]
    ) -> tuple[Float[Tensor, "rows *rest"], None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


def select_masked(
    values: Shaped[Tensor, "..."], where: Bool[Tensor, "*places"]
) -> Shaped[Tensor, "picked ..."]:
    """``values[where]``, which waits for the device only if ``where`` is there."""
    places = where.flatten().nonzero()[:, 0].to(values.device, non_blocking=True)
    return values.flatten(0, where.ndim - 1).index_select(0, places)

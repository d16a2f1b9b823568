"""Padded batches without their padding: what is computed token by token costs nothing for it.

How many tokens there are decides the shapes, so masks are best kept on the host: there it is known
without waiting for the device.
"""

import math
from dataclasses import dataclass
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

    real: Bool[Tensor, "batch length"]
    rows: Int[Tensor, " tokens"]
    bounds: Int32[Tensor, " batch+1"]
    """How many real tokens come before each sample's own, and all."""
    longest: int
    """Real tokens of the sample that has most."""

    @classmethod
    def of(cls, real: Bool[Tensor, "batch length"], device: torch.device) -> "Packing":
        """For states on ``device``."""
        grain = GRAIN if device.type == "cpu" else 1
        lengths = real.sum(dim=1)
        tokens = math.ceil(int(lengths.sum()) / grain) * grain
        rows = (~real).flatten().int().argsort(stable=True)[:tokens]
        bounds = functional.pad(lengths.cumsum(0), (1, 0)).int()
        return cls(
            real=real,
            rows=rows.to(device, non_blocking=True),
            bounds=bounds.to(device, non_blocking=True),
            longest=int(lengths.max()),
        )

    def pack(self, padded: Float[Tensor, "batch length width"]) -> Float[Tensor, "tokens width"]:
        """The tokens to compute, one after another."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def spread(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " tokens"]:
        """A value of each text -> that of each of its tokens to compute."""
        return values.index_select(0, self.rows // self.real.shape[1])

    def unpack(self, packed: Float[Tensor, "tokens width"]) -> Float[Tensor, "batch length width"]:
        """Padded again, with zeros where nothing was computed."""
        padded = Placed.apply(packed, self.rows, self.real.numel())
        return padded.unflatten(0, self.real.shape)


class Placed(torch.autograd.Function):
    """Rows in their places among zeros: ``zeros.index_copy``, which would keep all the rows for the
    backward pass, where only their places are needed."""

    @staticmethod
    def forward(
        ctx: Any, values: Float[Tensor, "rows width"], rows: Int[Tensor, " rows"], count: int
    ) -> Float[Tensor, "count width"]:
        ctx.save_for_backward(rows)
        return values.new_zeros(count, values.shape[1]).index_copy_(0, rows, values)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "count width"]
    ) -> tuple[Float[Tensor, "rows width"], None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


def pick(
    values: Shaped[Tensor, "..."], where: Bool[Tensor, "*places"]
) -> Shaped[Tensor, "picked ..."]:
    """``values[where]``, which waits for the device only if ``where`` is there."""
    places = where.flatten().nonzero()[:, 0].to(values.device, non_blocking=True)
    return values.flatten(0, where.ndim - 1).index_select(0, places)

"""Padded batches without their padding: what is computed token by token costs nothing for it.

How many tokens there are decides the shapes, so masks are best kept on the host: there it is known
without waiting for the device.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

GRAIN = 64
"""Packed tokens are a multiple of this where the batch has as many: a matrix product of a size not
seen before costs the CPU's library a third more, to prepare for it (docs/log.md)."""


@dataclass(frozen=True)
class Packing:
    """Where the tokens to compute stand in a padded batch: the real ones, then a few others."""

    real: Bool[Tensor, "batch length"]
    rows: Int[Tensor, " tokens"]

    @classmethod
    def of(cls, real: Bool[Tensor, "batch length"], device: torch.device) -> "Packing":
        """For states on ``device``."""
        tokens = math.ceil(int(real.sum()) / GRAIN) * GRAIN
        rows = (~real).flatten().int().argsort(stable=True)[:tokens]
        return cls(real, rows.to(device, non_blocking=True))

    def pack(self, padded: Float[Tensor, "batch length width"]) -> Float[Tensor, "tokens width"]:
        """The tokens to compute, one after another."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def spread(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " tokens"]:
        """A value of each text -> that of each of its tokens to compute."""
        return values.index_select(0, self.rows // self.real.shape[1])

    def unpack(self, packed: Float[Tensor, "tokens width"]) -> Float[Tensor, "batch length width"]:
        """Padded again, with zeros where nothing was computed."""
        zeros = packed.new_zeros(self.real.numel(), packed.shape[1])
        return zeros.index_copy(0, self.rows, packed).unflatten(0, self.real.shape)


def pick(
    values: Shaped[Tensor, "..."], where: Bool[Tensor, "*places"]
) -> Shaped[Tensor, "picked ..."]:
    """``values[where]``, which waits for the device only if ``where`` is there."""
    places = where.flatten().nonzero()[:, 0].to(values.device, non_blocking=True)
    return values.flatten(0, where.ndim - 1).index_select(0, places)

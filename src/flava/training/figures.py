"""The numbers of an update, on the host and of all ranks: one transfer, and one exchange."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from flava.distributed import world_size


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was computed of one batch of an update."""

    total: Float[Tensor, ""]
    losses: Mapping[str, Tensor]
    accuracies: Mapping[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The same on every rank."""

    parts: Sequence[Mapping[str, float]]
    """Losses and accuracies of each batch by name: means over ranks. The losses are each batch's
    part: their mean over batches is that of the joined batch."""
    norm: float
    """Of all gradients together."""
    votes: Sequence[float]
    """Sums over ranks."""
    scale: float | None = None
    """The contrast's logarithmic scale, where there is one."""

    @property
    def means(self) -> dict[str, float]:
        """The mean of each figure over the batches that have it."""
        names = dict.fromkeys(name for part in self.parts for name in part)
        values = {name: [part[name] for part in self.parts if name in part] for name in names}
        return {name: sum(each) / len(each) for name, each in values.items()}

    @property
    def not_finite(self) -> list[str]:
        """What is infinite, or no number: names with values."""
        every = [("grad_norm", self.norm), *(pair for part in self.parts for pair in part.items())]
        bad = (f"{name} {value}" for name, value in every if not math.isfinite(value))
        return list(dict.fromkeys(bad))


def read_figures(
    parts: Sequence[Part],
    norm: Float[Tensor, ""],
    votes: Sequence[float],
    scale: Float[Tensor, ""] | None = None,
) -> Figures:
    """Wait for the device, once, and exchange the numbers with the other ranks, once.

    A loss is weighed by the objective such that its mean over ranks is that of the joined batch. An
    accuracy is the mean over the ranks that have one.
    """
    numbers = [number.double() for part in parts for number in (part.total, *part.losses.values())]
    none, one = norm.new_tensor([0, 1], dtype=torch.float64)
    shares = [
        number
        for part in parts
        for accuracy in part.accuracies.values()
        for number in ((none, none) if accuracy is None else (accuracy.double(), one))
    ]
    scales = [] if scale is None else [scale.detach().double()]
    cast = norm.new_tensor(votes, dtype=torch.float64)
    values = torch.cat([torch.stack([norm.double(), *scales, *numbers, *shares]), cast])
    if world_size() > 1:
        dist.all_reduce(values)
    found = iter(values.tolist())

    def mean() -> float:
        return next(found) / world_size()

    total_norm = mean()
    found_scale = None if scale is None else mean()
    losses = [{"loss/total": mean()} | {f"loss/{n}": mean() for n in p.losses} for p in parts]
    rows = []
    for part, row in zip(parts, losses, strict=True):
        for name in part.accuracies:
            summed, ranks = next(found), next(found)
            if ranks:
                row[f"accuracy/{name}"] = summed / ranks
        rows.append(row)
    return Figures(parts=rows, norm=total_norm, votes=list(found), scale=found_scale)

"""Times in turns, floating-point operations, and what the machine could do at that moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.progress import track

from benchmarks.turns import Here, Work

OURS = "flava"
PEAK_SIZE = 4096
"""Rows and columns of the product that the peak is measured with."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One contender on one piece of work."""

    values: list[float]
    """One a round."""
    flops: int = 0
    """Of one call, as torch counts them: products, convolutions and attention."""

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A piece of work, measured: ours beside others. Less is better."""

    name: str
    contenders: dict[str, Measured]
    goals: dict[str, float]
    """How many times ours each of the others should be."""
    unit: str = "s"
    peak: float = 0.0
    """FLOP/s of large products in bf16, the median over the rounds; 0 where it says nothing."""
    of: str | None = None
    """What grows from result to result."""
    size: int = 0
    """How large that is."""

    @property
    def peers(self) -> list[str]:
        return [name for name in self.contenders if name != OURS]

    def ratio(self, peer: str) -> float:
        """How many times ours the peer's time, or memory, is."""
        return self.contenders[peer].median / self.contenders[OURS].median

    def flops_ratio(self, peer: str) -> float | None:
        """How many times our operations the peer's are; None if neither does any."""
        ours = self.contenders[OURS].flops
        return self.contenders[peer].flops / ours if ours else None

    def utilisation(self, name: str) -> float | None:
        """The share of the peak that a contender's operations a second are."""
        timed = self.contenders[name]
        return timed.flops / timed.median / self.peak if timed.flops and self.peak else None


def compare(
    name: str, works: Mapping[str, Work], goals: Mapping[str, float], *, rounds: int
) -> Result:
    """Each round all contenders do their work once, in turns; a first time is not timed."""
    flops = {contender: work.operations() for contender, work in works.items()}
    seconds: dict[str, list[float]] = {contender: [] for contender in works}
    peaks = []
    for number in track(range(rounds), description=f"{name:36}"):
        # Whoever comes first in one round comes last in the next.
        for contender in list(works)[:: 1 if number % 2 else -1]:
            seconds[contender].append(works[contender].seconds())
            if flops[contender]:
                peaks.append(peak())
    return Result(
        name=name,
        contenders={c: Measured(values=seconds[c], flops=flops[c]) for c in works},
        peak=median(peaks) if peaks else 0.0,
        goals=dict(goals),
    )


def joined(name: str, parts: Sequence[tuple[float, Result]], goals: Mapping[str, float]) -> Result:
    """Several pieces of work, of which each comes as often as its share says."""
    first = parts[0][1]
    return Result(
        name=name,
        contenders={
            contender: Measured(
                values=[sum(share * r.contenders[contender].median for share, r in parts)],
                flops=round(sum(share * r.contenders[contender].flops for share, r in parts)),
            )
            for contender in first.contenders
        },
        peak=median(result.peak for _, result in parts),
        goals=dict(goals),
    )


def peak() -> float:
    """FLOP/s of one large matrix product in bf16."""
    left, right = torch.ones(2, PEAK_SIZE, PEAK_SIZE, dtype=torch.bfloat16)
    return 2 * PEAK_SIZE**3 / Here(lambda: left @ right).seconds()

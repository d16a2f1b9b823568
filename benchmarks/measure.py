"""Measures contenders in turns: time, floating-point operations, and the machine's peak speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from rich.progress import track

from benchmarks.turns import Here, Work

OURS = "flava"
PEAK_SIZE = 4096
"""Rows and columns of the matrices whose product measures the peak speed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of one contender in one task."""

    values: list[float]
    """One value a round."""
    flops: int = 0
    """Operations of one call as torch counts them, in products, convolutions and attention."""

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The measurements of all contenders in one task. Smaller values are better."""

    name: str
    contenders: dict[str, Measured]
    goals: dict[str, float]
    """Peer -> the ratio of its value to ours that we aim at."""
    unit: str = "s"
    peak: float = 0.0
    """FLOP/s of large bf16 matrix products, the median of all rounds; 0 if not measured."""
    of: str | None = None
    """The quantity that is varied, in the group "growth"."""
    size: int = 0
    """The value of that quantity."""

    @property
    def peers(self) -> list[str]:
        return [name for name in self.contenders if name != OURS]

    def ratio(self, peer: str) -> float:
        """The ratio of the peer's time or memory to ours."""
        return self.contenders[peer].median / self.contenders[OURS].median

    def flops_ratio(self, peer: str) -> float | None:
        """The ratio of the peer's operations to ours; None if none were counted."""
        ours = self.contenders[OURS].flops
        return self.contenders[peer].flops / ours if ours else None

    def utilisation(self, name: str) -> float | None:
        """Operations per second as a share of the peak; None if either was not measured."""
        timed = self.contenders[name]
        return timed.flops / timed.median / self.peak if timed.flops and self.peak else None


def compare(
    name: str, works: Mapping[str, Work], goals: Mapping[str, float], *, rounds: int
) -> Result:
    """Time all contenders in turns, once a round; the first call, which counts operations, is not
    timed."""
    flops = {contender: work.operations() for contender, work in works.items()}
    seconds: dict[str, list[float]] = {contender: [] for contender in works}
    peaks = []
    for number in track(range(rounds), description=f"{name:36}"):
        # The order is reversed from round to round.
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
    """A mixture of tasks: the average of their values, weighted by their shares."""
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
    """FLOP/s of one large bf16 matrix product."""
    left, right = torch.ones(2, PEAK_SIZE, PEAK_SIZE, dtype=torch.bfloat16)
    return 2 * PEAK_SIZE**3 / Here(lambda: left @ right).seconds()

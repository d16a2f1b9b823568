"""The metrics of one step: gathered from all ranks, checked to be finite, and timed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.profiler import record_function

from flava.core.batch import Batch
from flava.core.distributed import rank, world_size
from flava.core.files import write_atomically
from flava.training.run import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class BatchLosses:
    """What was computed of one batch of an update."""

    total: Float[Tensor, ""]
    losses: Mapping[str, Tensor]
    accuracies: Mapping[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
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


def read_step_metrics(
    parts: Sequence[BatchLosses],
    norm: Float[Tensor, ""],
    votes: Sequence[float],
    scale: Float[Tensor, ""] | None = None,
) -> StepMetrics:
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
    return StepMetrics(parts=rows, norm=total_norm, votes=list(found), scale=found_scale)


class FiniteCheck:
    """Keeps bad numbers from the weights, and counts the updates that this costs."""

    def __init__(self, run: TrainerConfig, count: int = 0) -> None:
        self.run, self.count = run, count

    def passes(self, step: int, lr: float, batches: Sequence[Batch], figures: StepMetrics) -> bool:
        """Whether update number ``step`` (from 1) may be made; evidence is saved if not.

        All ranks have the same figures, and decide the same.

        Raises:
            FloatingPointError: it may not, and too many others were left out already.
        """
        bad = figures.not_finite
        if not bad:
            return True
        self.count += 1
        path = self.save_evidence(step, lr, batches, figures)
        if self.count <= self.run.max_non_finite:
            return False
        raise FloatingPointError(
            f"update {step} gave numbers that are not finite ({', '.join(bad)}), and "
            f"{self.count - 1} before it (max_non_finite {self.run.max_non_finite}); its losses, "
            f"gradient norm and samples are in {path}. Lower optimizer.lr (now "
            f"{self.run.optimizer.lr}) or lengthen schedule.warmup_steps, and train again in "
            "another --output-dir"
        )

    def save_evidence(
        self, step: int, lr: float, batches: Sequence[Batch], figures: StepMetrics
    ) -> Path:
        """Every rank names the samples that it had."""
        of_rank = f"-rank-{rank()}" if rank() else ""
        path = self.run.output_dir / f"non-finite-step-{step}{of_rank}.json"
        evidence = {
            "step": step,
            "lr": lr,
            "grad_norm": repr(figures.norm),
            "batches": [
                {"kind": b.kind, **{n: repr(v) for n, v in each.items()}, "keys": b.keys}
                for b, each in zip(batches, figures.parts, strict=True)
            ],
        }
        write_atomically(path, json.dumps(evidence, indent=2).encode() + b"\n")
        return path


PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")


class StepTimer:
    """Seconds of each part of an update, on the device that computes it.

    A GPU works behind the program: there, marks are put into its own queue and read when the update
    is over, so that no part waits for another.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.begin()

    def begin(self) -> None:
        """A new update."""
        self.started = perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Where one of `PARTS` is computed; a profile shows it by that name."""
        with record_function(name):
            if self.cuda and name != "data":
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                yield
                last.record()
                self.marks.append((name, first, last))
                return
            started = perf_counter()
            yield
            self.seconds[name] += perf_counter() - started

    def end(self) -> float:
        """The seconds of the whole update, whose work is then done."""
        if self.marks:
            self.marks[-1][2].synchronize()
        for name, first, last in self.marks:
            self.seconds[name] += first.elapsed_time(last) / 1000
        return perf_counter() - self.started

    def row(self) -> dict[str, float]:
        """The seconds of each part, by the names of metrics.jsonl."""
        return {f"{name}_seconds": seconds for name, seconds in self.seconds.items()}

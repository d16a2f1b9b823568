"""The metrics of one step: averages them over all ranks, checks them, and times the step."""

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
from flava.training.trainer_config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class BatchLosses:
    """The losses and accuracies of one batch of a step."""

    total: Float[Tensor, ""]
    losses: Mapping[str, Tensor]
    accuracies: Mapping[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """The metrics of one step over all ranks, the same on every rank."""

    batches: Sequence[Mapping[str, float]]
    """Losses and accuracies of each batch by name, averaged over ranks. Losses are weighted so that
    their mean over batches is the loss of the joined batch."""
    grad_norm: float
    """The norm of all gradients together."""
    flag_sums: Sequence[float]
    """For each flag of `gather_step_metrics`, on how many ranks it is set."""
    logit_scale: float | None = None
    """The logarithmic scale of contrastive logits, if the model has one."""

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric over the batches that have it."""
        names = dict.fromkeys(name for batch in self.batches for name in batch)
        values = {name: [each[name] for each in self.batches if name in each] for name in names}
        return {name: sum(each) / len(each) for name, each in values.items()}

    @property
    def not_finite(self) -> list[str]:
        """Names and values of the metrics that are infinite or NaN."""
        metrics = [("grad_norm", self.grad_norm)]
        metrics += [item for batch in self.batches for item in batch.items()]
        bad = (f"{name} {value}" for name, value in metrics if not math.isfinite(value))
        return list(dict.fromkeys(bad))


def gather_step_metrics(
    batches: Sequence[BatchLosses],
    grad_norm: Float[Tensor, ""],
    flags: Sequence[float],
    logit_scale: Float[Tensor, ""] | None = None,
) -> StepMetrics:
    """Average a step's metrics over all ranks, and add up ``flags`` (0 or 1).

    There is one exchange between ranks and one wait for the device. Objectives weight losses so
    that their mean over ranks is the loss of the joined batch. An accuracy is averaged over the
    ranks that have one.
    """
    losses = [loss.double() for batch in batches for loss in (batch.total, *batch.losses.values())]
    none, one = grad_norm.new_tensor([0, 1], dtype=torch.float64)
    accuracies = [  # each with 1, or two zeros
        value
        for batch in batches
        for accuracy in batch.accuracies.values()
        for value in ((none, none) if accuracy is None else (accuracy.double(), one))
    ]
    scales = [] if logit_scale is None else [logit_scale.detach().double()]
    metrics = torch.stack([grad_norm.double(), *scales, *losses, *accuracies])
    values = torch.cat([metrics, grad_norm.new_tensor(flags, dtype=torch.float64)])
    if world_size() > 1:
        dist.all_reduce(values)
    sums = iter(values.tolist())

    def mean() -> float:
        return next(sums) / world_size()

    mean_norm = mean()
    mean_scale = None if logit_scale is None else mean()
    means = [{"loss/total": mean()} | {f"loss/{n}": mean() for n in b.losses} for b in batches]
    for batch, row in zip(batches, means, strict=True):
        for name in batch.accuracies:
            accuracy_sum, ranks = next(sums), next(sums)
            if ranks:
                row[f"accuracy/{name}"] = accuracy_sum / ranks
    return StepMetrics(
        batches=means, grad_norm=mean_norm, flag_sums=list(sums), logit_scale=mean_scale
    )


class FiniteCheck:
    """Skips steps whose losses or gradients are not finite, and counts them."""

    def __init__(self, run: TrainerConfig, count: int = 0) -> None:
        self.run, self.count = run, count

    def passes(self, step: int, lr: float, batches: Sequence[Batch], metrics: StepMetrics) -> bool:
        """Whether step number ``step`` (from 1) may change the weights; if not, evidence is saved.

        All ranks have the same metrics, and decide the same.

        Raises:
            FloatingPointError: the metrics are not finite, and too many steps were skipped already.
        """
        bad = metrics.not_finite
        if not bad:
            return True
        self.count += 1
        path = self.save_evidence(step, lr, batches, metrics)
        if self.count <= self.run.max_non_finite:
            return False
        raise FloatingPointError(
            f"step {step} gave numbers that are not finite ({', '.join(bad)}), and "
            f"{self.count - 1} before it (max_non_finite {self.run.max_non_finite}); its losses, "
            f"gradient norm and samples are in {path}. Lower optimizer.lr (now "
            f"{self.run.optimizer.lr}) or lengthen schedule.warmup_steps, and train again in "
            "another --output-dir"
        )

    def save_evidence(
        self, step: int, lr: float, batches: Sequence[Batch], metrics: StepMetrics
    ) -> Path:
        """Write the step's metrics, and the keys of this rank's samples, to the run's folder."""
        of_rank = f"-rank-{rank()}" if rank() else ""
        path = self.run.output_dir / f"non-finite-step-{step}{of_rank}.json"
        evidence = {
            "step": step,
            "lr": lr,
            "grad_norm": repr(metrics.grad_norm),
            "batches": [
                {"kind": b.kind, **{n: repr(v) for n, v in each.items()}, "keys": b.keys}
                for b, each in zip(batches, metrics.batches, strict=True)
            ],
        }
        write_atomically(path, json.dumps(evidence, indent=2).encode() + b"\n")
        return path


PARTS: tuple[str, ...] = ("data", "forward", "backward", "optimizer")


class StepTimer:
    """Measures the seconds of each part of a step, on the device that computes it.

    A GPU computes asynchronously. There, events are recorded in its stream and read when the step
    is over, so that no part waits for another.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.begin()

    def begin(self) -> None:
        """Start a new step."""
        self.started = perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Measure one of `PARTS`; a profile shows it by that name."""
        with record_function(name):
            if self.cuda and name != "data":
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                yield
                last.record()
                self.events.append((name, first, last))
                return
            started = perf_counter()
            yield
            self.seconds[name] += perf_counter() - started

    def end(self) -> float:
        """Wait until the step is computed; returns the seconds of the whole step."""
        if self.events:
            self.events[-1][2].synchronize()
        for name, first, last in self.events:
            self.seconds[name] += first.elapsed_time(last) / 1000
        return perf_counter() - self.started

    def metrics(self) -> dict[str, float]:
        """The seconds of each part, by their names in metrics.jsonl."""
        return {f"{name}_seconds": seconds for name, seconds in self.seconds.items()}

"""The training loop. It knows no method: an objective turns a batch into named losses."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import torch

from flava.checkpoints.native import restore_own
from flava.checkpoints.reading import read_path
from flava.core.batch import Batch
from flava.core.distributed import gather_objects, local_device, raise_on_rank_0, world_size
from flava.core.machine import gpu_named
from flava.data.loader import SourcePositions
from flava.objectives.accumulation import Losses, accumulated_losses
from flava.objectives.objective import Objective, Validate, Work
from flava.training.checkpoint import (
    TrainingProgress,
    Writer,
    joined_marks,
    last_checkpoint,
    load_progress,
    step_name,
)
from flava.training.launch import Interrupted, Stopping
from flava.training.metrics import MetricsRow, Watch, profiled
from flava.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    weight_decay_at,
)
from flava.training.parallel import ParallelModel, by_name
from flava.training.run import TrainerConfig, load_run
from flava.training.run_folder import claim
from flava.training.state import restore, seed_anew, tensors_of
from flava.training.step_metrics import (
    BatchLosses,
    FiniteCheck,
    StepMetrics,
    StepTimer,
    read_step_metrics,
)


class Trainer:
    """One run: made fresh, or from the last checkpoint of its folder. Every rank has one.

    `folder.check` must have found nothing wrong with it.
    """

    def __init__(
        self,
        run: TrainerConfig,
        objective: Objective,
        probe: Validate | None,
        work: Callable[[Batch], Work] | None = None,
    ) -> None:
        self.run, self.objective, self.probe, self.work = run, objective, probe, work
        self.device, self.model = local_device(), objective.model
        self.checkpoints = run.output_dir / "checkpoints"
        last = last_checkpoint(run.output_dir)
        progress = progress_of(run, last)
        gather_objects(None)  # all have read it before one claims the folder
        claim(run)
        if last:
            restore_own(self.model, read_path(last))
        self.parallel = ParallelModel(run, objective, self.device)
        self.trained = self.parallel.trained
        self.optimizer = build_optimizer(run.optimizer, self.model)
        self.step, self.seconds = progress.step, progress.seconds
        # What was the best by another validator says nothing of this one's figures.
        self.best = progress.best if progress.best_of == run.selection_metric else None
        self.saved = self.step if last else None
        self.marks: SourcePositions = progress.marks
        self.position: Callable[[], SourcePositions] = dict
        self.finite = FiniteCheck(run, progress.non_finite)
        self.stopping, self.meter = Stopping(), StepTimer(self.device)
        self.writer = Writer(self.checkpoints, run.keep_last, run.timeout)
        if last:
            restore(last, self.model, self.optimizer)
            self.objective.after_step(self.step)
        if world_size() != progress.ranks:
            seed_anew(run.seed, self.step)

    def train(
        self, batches: Iterator[Batch], position: Callable[[], SourcePositions] = dict
    ) -> None:
        """Train to ``max_steps`` on ``batches``, which begin with that of update ``self.step``.

        Checkpoints keep the ``position`` in the data, and who goes on finds it in ``self.marks``.

        Raises:
            Interrupted: by Ctrl-C or SIGTERM, after a checkpoint was written.
            FloatingPointError: too many losses or gradients were not finite; what is known is
                saved.
            OSError: a checkpoint could not be written; earlier ones are untouched.
        """
        self.position = position
        with (
            closing(self.writer),
            closing(Watch(self.run, self.step)) as watch,
            profiled(self.run) as next_update,
            self.stopping.catching(),
        ):
            while self.step < self.run.max_steps and not self.stopping.by:
                watch.write(self.update(batches))
                next_update()
                self.look(watch)
            if self.step < self.run.max_steps:
                self.save()
        gather_objects(None)  # a rank that hangs while it ends must not keep the launcher for ever
        if self.stopping.by and self.step < self.run.max_steps:
            raise Interrupted(
                f"stopped after {self.step} of {self.run.max_steps} updates; the checkpoint is in "
                f"{self.checkpoints / 'last'}. To go on, run the same command with --resume",
                self.stopping.by,
            )

    def update(self, batches: Iterator[Batch]) -> MetricsRow:
        """One update of the weights, over ``accumulate`` batches as one."""
        meter = self.meter
        meter.begin()
        rate = self.set_schedules()
        with meter.part("data"):
            drawn = [next(batches) for _ in range(self.run.accumulate)]
        losses = self.losses_of(drawn)
        parts = [self.add_gradients(each, last=each is losses[-1]) for each in losses]
        with meter.part("optimizer"):
            norm = clip_gradients(self.run.optimizer, self.trained)
        figures = self.agree(parts, norm)
        with meter.part("optimizer"):
            if made := self.finite.passes(self.step + 1, rate, drawn, figures):
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.objective.after_step(self.step)
        elapsed = meter.end()
        self.seconds += elapsed
        return {
            "step": self.step,
            "batch": drawn[0].kind,
            **figures.means,
            "lr": rate,
            "grad_norm": figures.norm,
            **({} if made else {"non_finite": self.finite.count}),
            **({} if figures.scale is None else {"temperature": math.exp(-figures.scale)}),
            **self.speed(drawn, elapsed),
            **meter.row(),
            "seconds": self.seconds,
            **memory(self.device),
        }

    def speed(self, drawn: Sequence[Batch], elapsed: float) -> dict[str, float]:
        """What was done in a second: by all ranks, as if each had as much as this one, but for the
        operations, which are this one's."""
        samples = world_size() * sum(len(batch.keys) for batch in drawn)
        found = {"samples_per_second": samples / elapsed}
        if self.work is None:
            return found
        work = [self.work(batch) for batch in drawn]
        done = sum(each.operations for each in work) / elapsed
        found["tokens_per_second"] = world_size() * sum(each.tokens for each in work) / elapsed
        found["tflops_per_second"] = done / 1e12
        if self.device.type == "cuda" and (
            gpu := gpu_named(torch.cuda.get_device_name(self.device))
        ):
            found["mfu"] = done / gpu.peak(self.run.precision)
        return found

    def losses_of(self, drawn: Sequence[Batch]) -> list[Losses]:
        """What computes each batch's losses; pairs of several batches are encoded for it already,
        a part of the forward pass."""
        encoding = self.meter.part("forward") if len(drawn) > 1 else nullcontext()
        with encoding, self.autocast():
            return accumulated_losses(self.objective, drawn, self.parallel.learner, self.device)

    def autocast(self) -> torch.autocast:
        """Where matrix products are computed in the run's precision."""
        precision = self.run.precision.dtype
        return torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    def add_gradients(self, batch: Losses, *, last: bool) -> BatchLosses:
        """Add a batch's gradients to those there are; at an update's ``last``, of all ranks."""
        with self.parallel.gradients(last=last):
            with self.meter.part("forward"), self.autocast():
                losses, accuracies = self.parallel.learner(partial(by_name, batch))
            with self.meter.part("backward"):
                total = torch.stack(list(losses.values())).sum()
                (total / self.run.accumulate).backward()
        found = {name: loss.detach() for name, loss in losses.items()}
        return BatchLosses(total=total.detach(), losses=found, accuracies=accuracies)

    def agree(self, parts: Sequence[BatchLosses], norm: torch.Tensor) -> StepMetrics:
        """The update's figures; and whether to stop after it, since all ranks must."""
        failed = float(self.writer.failed)
        scale = getattr(self.model, "logit_scale", None)
        figures = read_step_metrics(parts, norm, [failed, *self.stopping.votes()], scale)
        some_failed, *votes = figures.votes
        self.stopping.count(votes)
        if some_failed:
            raise_on_rank_0(self.writer.failure())
        return figures

    def set_schedules(self) -> float:
        """Learning rate and weight decay of the coming update; returns the former."""
        factor = learning_rate_factor(self.run.schedule, self.step, self.run.max_steps)
        decay = weight_decay_at(self.run.optimizer, self.step, self.run.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.optimizer.lr * factor
            if group["weight_decay"]:
                group["weight_decay"] = decay
        return self.run.optimizer.lr * factor

    def look(self, watch: Watch) -> None:
        """Probe and write checkpoints when they are due."""
        done = self.step == self.run.max_steps
        if self.probe and (done or self.step % self.run.validate_every == 0):
            figures = self.probed(self.probe)
            watch.write({"step": self.step, **{f"validation/{k}": v for k, v in figures.items()}})
            if self.is_best(next(iter(figures.values()))):
                self.save("best")
        if done or self.step % self.run.checkpoint_every == 0:
            self.save()

    def is_best(self, figure: float) -> bool:
        """Whether this is the highest figure so far, or within the tolerance of it."""
        best = -math.inf if self.best is None else self.best
        if not figure > best - self.run.validation_tolerance:  # nor is what is no number
            return False
        self.best = max(figure, best)
        return True

    def probed(self, probe: Validate) -> dict[str, float]:
        """Every rank asks the probe, since each may hold a part of the model only."""
        self.model.eval()
        with torch.inference_mode(), self.parallel.whole():
            figures = probe(self.model, self.step)
        self.model.train()
        return figures

    def save(self, *links: str) -> None:
        """Write a checkpoint and let ``links`` stand for it; it is the last one in any case."""
        if self.saved == self.step:
            return
        self.writer.write(
            step_name(self.step),
            self.model,
            self.parallel.weights(),
            tensors_of(self.model, self.optimizer),
            TrainingProgress(
                step=self.step,
                seconds=self.seconds,
                best=self.best,
                best_of=self.run.selection_metric,
                non_finite=self.finite.count,
                ranks=world_size(),
                marks=joined_marks(gather_objects(self.position())),
            ),
            (*links, "last"),
        )
        self.saved = self.step


def progress_of(run: TrainerConfig, last: Path | None) -> TrainingProgress:
    """How far the run is, by its last checkpoint if there is one."""
    if last is None:
        return TrainingProgress()
    progress = load_progress(last)
    if progress.best_of is not None:
        return progress
    # An earlier version wrote it, and did not tell what the best figure is of.
    saved = load_run(run.output_dir / "run.json", type(run))
    return replace(progress, best_of=saved.selection_metric)


def memory(device: torch.device) -> dict[str, float]:
    """In GiB: this process's now, and the GPU's tensors when they were most."""
    found = {"memory_gib": psutil.Process().memory_info().rss / 2**30}
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found

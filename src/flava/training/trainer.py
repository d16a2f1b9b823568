"""The training loop, which is the same for all methods: an objective computes the named losses."""

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
from flava.data.streaming import SourcePositions
from flava.objectives.accumulation import ComputeLosses, accumulated_losses
from flava.objectives.objective import Objective, Validate, Work
from flava.training.checkpoint import (
    CheckpointWriter,
    TrainingProgress,
    join_positions,
    last_checkpoint,
    load_progress,
    step_name,
)
from flava.training.launch import Interrupted, StopSignals
from flava.training.metrics import MetricsLogger, MetricsRow, profiler
from flava.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    weight_decay_at,
)
from flava.training.parallel import ParallelModel, losses_and_accuracies
from flava.training.run_folder import claim
from flava.training.state import reseed, restore_state, state_tensors
from flava.training.step_metrics import (
    BatchLosses,
    FiniteCheck,
    StepMetrics,
    StepTimer,
    gather_step_metrics,
)
from flava.training.trainer_config import TrainerConfig, load_config


class Trainer:
    """Trains one run, from its start or from the last checkpoint in its folder.

    Every rank has a trainer. `run_folder.check` must have accepted the folder.

    Args:
        run: The configuration.
        objective: Turns a batch into named losses; holds the model.
        validator: Computes validation metrics of the model, of which the first chooses the best
            checkpoint.
        count_work: Counts the tokens and operations of a batch, for tokens/s and MFU.
    """

    def __init__(
        self,
        run: TrainerConfig,
        objective: Objective,
        validator: Validate | None,
        count_work: Callable[[Batch], Work] | None = None,
    ) -> None:
        self.run, self.objective = run, objective
        self.validator, self.count_work = validator, count_work
        self.device, self.model = local_device(), objective.model
        self.checkpoints = run.output_dir / "checkpoints"
        last = last_checkpoint(run.output_dir)
        progress = _progress_of(run, last)
        gather_objects(None)  # every rank has read the checkpoint before one changes the folder
        claim(run)
        if last:
            restore_own(self.model, read_path(last))
        self.parallel = ParallelModel(run, objective, self.device)
        self.optimizer = build_optimizer(run.optimizer, self.model)
        self.step, self.seconds = progress.step, progress.seconds
        # Scores of another validator cannot be compared with those of this one.
        self.best_score = progress.best if progress.best_of == run.selection_metric else None
        self.saved_step = self.step if last else None
        self.data_positions: SourcePositions = progress.marks
        self.current_positions: Callable[[], SourcePositions] = dict
        self.finite_check = FiniteCheck(run, progress.non_finite)
        self.stop_signals, self.timer = StopSignals(), StepTimer(self.device)
        self.writer = CheckpointWriter(self.checkpoints, run.keep_last, run.timeout)
        if last:
            restore_state(last, self.model, self.optimizer)
            self.objective.after_step(self.step)
        if world_size() != progress.ranks:
            reseed(run.seed, self.step)

    def train(
        self, batches: Iterator[Batch], current_positions: Callable[[], SourcePositions] = dict
    ) -> None:
        """Train up to ``max_steps`` on ``batches``, which begin with those of step ``self.step``.

        ``current_positions`` returns how far the data has been read. Checkpoints keep that, and a
        resumed run finds it in ``self.data_positions``.

        Raises:
            Interrupted: Ctrl-C or SIGTERM stopped the run, after a checkpoint was written.
            FloatingPointError: too many losses or gradients were not finite; evidence is saved.
            OSError: a checkpoint could not be written; earlier ones are untouched.
        """
        self.current_positions = current_positions
        with (
            closing(self.writer),
            closing(MetricsLogger(self.run, self.step)) as logger,
            profiler(self.run) as after_step,
            self.stop_signals.caught(),
        ):
            while self.step < self.run.max_steps and not self.stop_signals.stop_by:
                logger.write(self.train_step(batches))
                after_step()
                self.validate_and_save(logger)
            if self.step < self.run.max_steps:
                self.save()
        gather_objects(None)  # so that a rank that hangs now is noticed by the others' timeout
        if self.stop_signals.stop_by and self.step < self.run.max_steps:
            raise Interrupted(
                f"stopped after {self.step} of {self.run.max_steps} steps; the checkpoint is in "
                f"{self.checkpoints / 'last'}. To continue, run the same command with --resume",
                self.stop_signals.stop_by,
            )

    def train_step(self, batches: Iterator[Batch]) -> MetricsRow:
        """One optimizer step over ``accumulate`` batches; returns the step's metrics."""
        timer = self.timer
        timer.begin()
        lr = self.set_schedules()
        with timer.measure("data"):
            step_batches = [next(batches) for _ in range(self.run.accumulate)]
        losses = self.prepare_losses(step_batches)
        computed = [self.forward_backward(each, is_last=each is losses[-1]) for each in losses]
        with timer.measure("optimizer"):
            grad_norm = clip_gradients(self.run.optimizer, self.parallel.trainable_parameters)
        metrics = self.gather_metrics(computed, grad_norm)
        with timer.measure("optimizer"):
            if finite := self.finite_check.passes(self.step + 1, lr, step_batches, metrics):
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            self.objective.after_step(self.step)
        elapsed = timer.end()
        self.seconds += elapsed
        scale = metrics.logit_scale
        return {
            "step": self.step,
            "batch": step_batches[0].kind,
            **metrics.means,
            "lr": lr,
            "grad_norm": metrics.grad_norm,
            **({} if finite else {"non_finite": self.finite_check.count}),
            **({} if scale is None else {"temperature": math.exp(-scale)}),
            **self.throughput(step_batches, elapsed),
            **timer.metrics(),
            "seconds": self.seconds,
            **_memory_metrics(self.device),
        }

    def set_schedules(self) -> float:
        """Set learning rate and weight decay for the coming step; returns the learning rate."""
        factor = learning_rate_factor(self.run.schedule, self.step, self.run.max_steps)
        decay = weight_decay_at(self.run.optimizer, self.step, self.run.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.optimizer.lr * factor
            if group["weight_decay"]:
                group["weight_decay"] = decay
        return self.run.optimizer.lr * factor

    def autocast(self) -> torch.autocast:
        """A context in which matrix products are computed in the run's precision."""
        precision = self.run.precision.dtype
        return torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    def prepare_losses(self, batches: Sequence[Batch]) -> list[ComputeLosses]:
        """For each batch a function that computes its losses.

        Contrast over several batches encodes all of them here already: a part of the forward pass.
        """
        encoding = self.timer.measure("forward") if len(batches) > 1 else nullcontext()
        with encoding, self.autocast():
            return accumulated_losses(
                self.objective, batches, self.parallel.training_module, self.device
            )

    def forward_backward(self, losses_of_batch: ComputeLosses, *, is_last: bool) -> BatchLosses:
        """Compute a batch's losses, and add their gradients to those of the step's earlier batches.

        Ranks exchange the gradients with the last batch of a step.
        """
        with self.parallel.gradient_sync(is_last=is_last):
            with self.timer.measure("forward"), self.autocast():
                losses, accuracies = self.parallel.training_module(
                    partial(losses_and_accuracies, losses_of_batch)
                )
            with self.timer.measure("backward"):
                total = torch.stack(list(losses.values())).sum()
                (total / self.run.accumulate).backward()
        detached = {name: loss.detach() for name, loss in losses.items()}
        return BatchLosses(total=total.detach(), losses=detached, accuracies=accuracies)

    def gather_metrics(
        self, computed: Sequence[BatchLosses], grad_norm: torch.Tensor
    ) -> StepMetrics:
        """The step's metrics over all ranks.

        The same exchange tells every rank whether another one was asked to stop, or failed to write
        a checkpoint: then all must stop after the same step.
        """
        failed = float(self.writer.failed)
        logit_scale = getattr(self.model, "logit_scale", None)
        metrics = gather_step_metrics(
            computed, grad_norm, [failed, *self.stop_signals.flags()], logit_scale
        )
        failed_ranks, *ranks_by_signal = metrics.flag_sums
        self.stop_signals.agree(ranks_by_signal)
        if failed_ranks:
            raise_on_rank_0(self.writer.failure())
        return metrics

    def throughput(self, batches: Sequence[Batch], elapsed: float) -> dict[str, float]:
        """Samples and tokens per second of all ranks, and operations per second of this one.

        Every rank is taken to have as many samples and tokens as this one.
        """
        samples = world_size() * sum(len(batch.keys) for batch in batches)
        metrics = {"samples_per_second": samples / elapsed}
        if self.count_work is None:
            return metrics
        work = [self.count_work(batch) for batch in batches]
        operations = sum(each.operations for each in work) / elapsed
        metrics["tokens_per_second"] = world_size() * sum(each.tokens for each in work) / elapsed
        metrics["tflops_per_second"] = operations / 1e12
        if self.device.type == "cuda" and (
            gpu := gpu_named(torch.cuda.get_device_name(self.device))
        ):
            metrics["mfu"] = operations / gpu.peak(self.run.precision)
        return metrics

    def validate_and_save(self, logger: MetricsLogger) -> None:
        """Validate the model and write checkpoints, where this step is due for it."""
        is_end = self.step == self.run.max_steps
        if self.validator and (is_end or self.step % self.run.validate_every == 0):
            metrics = self.validate(self.validator)
            logger.write({"step": self.step, **{f"validation/{k}": v for k, v in metrics.items()}})
            if self.update_best_score(next(iter(metrics.values()))):
                self.save("best")
        if is_end or self.step % self.run.checkpoint_every == 0:
            self.save()

    def validate(self, validator: Validate) -> dict[str, float]:
        """The validator's metrics. Every rank computes them, as each may hold only shards."""
        self.model.eval()
        with torch.inference_mode(), self.parallel.unsharded():
            metrics = validator(self.model, self.step)
        self.model.train()
        return metrics

    def update_best_score(self, score: float) -> bool:
        """Whether a score is the highest so far, within the tolerance; keeps the highest."""
        best = -math.inf if self.best_score is None else self.best_score
        if not score > best - self.run.validation_tolerance:  # NaN is never the best
            return False
        self.best_score = max(score, best)
        return True

    def save(self, *links: str) -> None:
        """Write a checkpoint of this step, as "last" and each of ``links``, unless there is one."""
        if self.saved_step == self.step:
            return
        self.writer.write(
            step_name(self.step),
            self.model,
            self.parallel.full_weights(),
            state_tensors(self.model, self.optimizer),
            TrainingProgress(
                step=self.step,
                seconds=self.seconds,
                best=self.best_score,
                best_of=self.run.selection_metric,
                non_finite=self.finite_check.count,
                ranks=world_size(),
                marks=join_positions(gather_objects(self.current_positions())),
            ),
            (*links, "last"),
        )
        self.saved_step = self.step


def _progress_of(run: TrainerConfig, last: Path | None) -> TrainingProgress:
    """The progress of a run, by its last checkpoint if there is one."""
    if last is None:
        return TrainingProgress()
    progress = load_progress(last)
    if progress.best_of is not None:
        return progress
    # Earlier versions did not save which validator the best score is of.
    saved = load_config(run.output_dir / "run.json", type(run))
    return replace(progress, best_of=saved.selection_metric)


def _memory_metrics(device: torch.device) -> dict[str, float]:
    """In GiB: this process's memory now, and the peak of the GPU's tensors."""
    metrics = {"memory_gib": psutil.Process().memory_info().rss / 2**30}
    if device.type == "cuda":
        metrics["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return metrics

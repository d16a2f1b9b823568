"""The training loop. It knows no method: an objective turns a batch into named losses."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import psutil
import torch
from torch import nn

from flava.batch import Batch, to_device
from flava.model.published.files import read_path
from flava.model.published.own import OwnModel, restore_own
from flava.objectives import Term
from flava.training.checkpoint import last_checkpoint, load_state, point, save_checkpoint, step_name
from flava.training.files import write_whole
from flava.training.metrics import Display, Metrics, Row
from flava.training.optimizer import build_optimizer, clip_gradients
from flava.training.run import LoopConfig, differences, load_run, save_run
from flava.training.schedule import learning_rate_factor, weight_decay_at

Probe = Callable[[nn.Module, int], dict[str, float]]
"""(model, step) -> named figures. The first of them chooses the best checkpoint: more is better."""


@runtime_checkable
class Objective(Protocol):
    """What the loop needs of a method."""

    @property
    def model(self) -> OwnModel: ...

    def __call__(self, batch: Batch) -> dict[str, Term]: ...

    def after_step(self, step: int) -> None:
        """Called when ``step`` updates have been made."""


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by the user; its message says how to go on."""


class Trainer:
    """One run: made fresh, or from the last checkpoint of its folder.

    Raises:
        ValueError: the folder holds another run, or this one and ``resume`` was not asked for.
    """

    def __init__(self, run: LoopConfig, objective: Objective, probe: Probe | None) -> None:
        self.run, self.objective, self.probe = run, objective, probe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = objective.model.to(self.device)
        self.optimizer = build_optimizer(run.optimizer, self.model)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        self.saved: int | None = None
        self.checkpoints = run.output_dir / "checkpoints"
        self.interrupted = False
        self.claim_folder()

    def claim_folder(self) -> None:
        if last := last_checkpoint(self.run.output_dir):
            if not self.run.resume:
                raise ValueError(
                    f"output_dir {self.run.output_dir} already holds a run: add --resume to go on "
                    "with it, or choose another folder with --output-dir"
                )
            if found := differences(
                load_run(self.run.output_dir / "run.json", type(self.run)), self.run
            ):
                raise ValueError(
                    f"the run in {self.run.output_dir} is another one; to resume it leave these as "
                    "they were, or choose another --output-dir:\n  " + "\n  ".join(found)
                )
            self.restore(last)
        try:
            self.run.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"output_dir {self.run.output_dir} cannot be made ({error.strerror}): choose "
                "another folder with --output-dir"
            ) from error
        save_run(self.run, self.run.output_dir / "run.json")

    def train(self, batches: Iterator[Batch]) -> None:
        """Train to ``max_steps`` on ``batches``, which begin with that of update ``self.step``.

        Raises:
            Interrupted: by Ctrl-C or SIGTERM, after a checkpoint was written.
            FloatingPointError: a loss or gradient was not finite; what is known is saved.
            OSError: a checkpoint could not be written; earlier ones are untouched.
        """
        with (
            closing(Metrics(self.run.output_dir, self.step)) as metrics,
            closing(Display(self.step, self.run.max_steps)) as display,
            self.catch_signals(),
        ):
            while self.step < self.run.max_steps and not self.interrupted:
                row = self.update(batches)
                metrics.write(row)
                display.update(row)
                self.look(metrics, display)
        if self.step < self.run.max_steps:
            self.save()
            raise Interrupted(
                f"stopped after {self.step} of {self.run.max_steps} updates; the checkpoint is in "
                f"{self.checkpoints / 'last'}. To go on, run the same command with --resume"
            )

    def update(self, batches: Iterator[Batch]) -> Row:
        """One update of the weights, over ``accumulate`` batches."""
        started = time.perf_counter()
        rate = self.set_schedules()
        drawn = [next(batches) for _ in range(self.run.accumulate)]
        waited = time.perf_counter() - started
        found = [self.accumulate_gradients(to_device(batch, self.device)) for batch in drawn]
        norm = clip_gradients(self.run.optimizer, self.trained)
        self.require_finite(drawn, found, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.objective.after_step(self.step)
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        return {
            "step": self.step,
            "batch": drawn[0].kind,
            **means(found),
            "lr": rate,
            "grad_norm": norm,
            "samples_per_second": sum(len(batch.keys) for batch in drawn) / elapsed,
            "data_seconds": waited,
            "seconds": self.seconds,
            "memory_gib": psutil.Process().memory_info().rss / 2**30,
        }

    def accumulate_gradients(self, batch: Batch) -> dict[str, float]:
        """Add a batch's gradients to those there are; its losses and accuracies by name."""
        precision = self.run.precision.dtype
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            terms = self.objective(batch)
        figures = {f"loss/{name}": term.loss.item() for name, term in terms.items()}
        total = torch.stack([term.loss for term in terms.values()]).sum()
        (total / self.run.accumulate).backward()
        accuracies = {
            f"accuracy/{name}": term.accuracy
            for name, term in terms.items()
            if term.accuracy is not None
        }
        return {"loss/total": total.item(), **figures, **accuracies}

    def set_schedules(self) -> float:
        """Learning rate and weight decay of the coming update; returns the former."""
        factor = learning_rate_factor(self.run.schedule, self.step, self.run.max_steps)
        decay = weight_decay_at(self.run.optimizer, self.step, self.run.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.optimizer.lr * factor
            if group["weight_decay"]:
                group["weight_decay"] = decay
        return self.run.optimizer.lr * factor

    def require_finite(
        self, batches: Sequence[Batch], found: Sequence[Mapping[str, float]], norm: float
    ) -> None:
        """Stop, with the evidence saved, before a bad number reaches the weights."""
        figures = [("grad_norm", norm), *(pair for each in found for pair in each.items())]
        bad = dict.fromkeys(
            f"{name} {value}" for name, value in figures if not math.isfinite(value)
        )
        if not bad:
            return
        step = self.step + 1
        path = self.run.output_dir / f"non-finite-step-{step}.json"
        evidence = {
            "step": step,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": repr(norm),
            "batches": [
                {"kind": b.kind, **{n: repr(v) for n, v in each.items()}, "keys": b.keys}
                for b, each in zip(batches, found, strict=True)
            ],
        }
        write_whole(path, json.dumps(evidence, indent=2).encode() + b"\n")
        raise FloatingPointError(
            f"update {step} gave numbers that are not finite ({', '.join(bad)}); its losses, "
            f"gradient norm and samples are in {path}. Lower optimizer.lr (now "
            f"{self.run.optimizer.lr}) or lengthen schedule.warmup_steps, and train again in "
            "another --output-dir"
        )

    def look(self, metrics: Metrics, display: Display) -> None:
        """Probe and write checkpoints when they are due."""
        done = self.step == self.run.max_steps
        if self.probe and (done or self.step % self.run.probe_every == 0):
            self.model.eval()
            with torch.inference_mode():
                figures = self.probe(self.model, self.step)
            self.model.train()
            metrics.write({"step": self.step, **{f"probe/{k}": v for k, v in figures.items()}})
            shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            display.say(f"probe at step {self.step}: {shown}")
            first = next(iter(figures.values()))
            if first > self.best - self.run.probe_tolerance:
                self.best = max(first, self.best)
                self.save("best")
        if done or self.step % self.run.checkpoint_every == 0:
            self.save()

    def save(self, *links: str) -> None:
        """Write a checkpoint and let ``links`` stand for it; it is the last one in any case."""
        name = step_name(self.step)
        # Not "if there is none": a folder of that name may be the rest of a run that was killed.
        if self.saved != self.step:
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "best": self.best,
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
            save_checkpoint(self.checkpoints, name, self.model, state)
            self.saved = self.step
        for link in (*links, "last"):
            point(self.checkpoints, link, name)

    def restore(self, folder: Path) -> None:
        state: dict[str, Any] = load_state(folder)
        restore_own(self.model, read_path(folder))
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.saved = self.step
        torch.set_rng_state(state["random"])
        self.objective.after_step(self.step)

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Let the current update finish on Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""

        def stop(number: int, frame: object) -> None:  # noqa: ARG001
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}

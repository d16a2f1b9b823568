"""Loggers of metrics: JSON lines, TensorBoard, the terminal, Weights & Biases; and the profiler."""

import importlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.tensorboard import SummaryWriter

from flava.core.distributed import rank
from flava.core.files import write_atomically, write_error
from flava.training.trainer_config import TrainerConfig

WANDB_ID_FILE = "wandb-id"
"""The file in a run's folder with its id at Weights & Biases, by which it is resumed there."""


class WandbLogger:
    """Logs all metrics of a run to a project of Weights & Biases.

    Raises:
        ValueError: the library is not installed.
    """

    def __init__(self, run: TrainerConfig) -> None:
        self.run: Any = _import_wandb().init(
            project=run.wandb,
            id=_wandb_id(run.output_dir),
            resume="allow",
            name=run.output_dir.name,
            dir=run.output_dir,
            config=TypeAdapter(type(run)).dump_python(run, mode="json"),
        )
        # A resumed run goes back some steps, and wandb's own step counter cannot.
        self.run.define_metric("*", step_metric="step")

    def write(self, row: Mapping[str, float | int | str | None]) -> None:
        self.run.log({name: value for name, value in row.items() if value is not None})

    def close(self) -> None:
        self.run.finish()


def _import_wandb() -> Any:
    try:
        return importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ValueError(
            "wandb is set, but Weights & Biases is not installed: pip install 'flava[wandb]', or "
            "leave it out"
        ) from error


def _wandb_id(folder: Path) -> str:
    path = folder / WANDB_ID_FILE
    if not path.exists():
        write_atomically(path, uuid4().hex[:8].encode())
    return path.read_text()


MetricsRow = Mapping[str, float | int | str | None]


class MetricsLogger:
    """Sends metrics to all loggers of a run; only rank 0 has any."""

    def __init__(self, run: TrainerConfig, step: int) -> None:
        self.loggers: list[MetricsFile | TerminalDisplay | WandbLogger] = []
        if rank() == 0:
            self.loggers = [WandbLogger(run)] if run.wandb else []
            self.loggers.append(MetricsFile(run.output_dir, step))
            self.loggers.append(TerminalDisplay(step, run.max_steps))

    def write(self, row: MetricsRow) -> None:
        """Log the metrics of a training step, or of a validation."""
        for each in self.loggers:
            each.write(row)

    def close(self) -> None:
        for each in self.loggers:
            each.close()


SMOOTHING = 0.95
"""Weight of the past in the moving averages on the terminal."""

SECONDS_BETWEEN_LINES = 15
"""How often a line is printed where the output is no terminal that can show a progress bar."""


class MetricsFile:
    """``metrics.jsonl`` and TensorBoard: a row for each training step, and one for each validation.

    Rows after ``step``, at which the run is resumed, are deleted.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in _complete_lines(self.path) if json.loads(line)["step"] <= step]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: MetricsRow) -> None:
        """Raises OSError if the disk is full; rows before this one stay."""
        with self.write_errors():
            with self.path.open("a") as file:
                file.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, int(row["step"] or 0))

    def close(self) -> None:
        with self.write_errors():
            self.board.close()

    @contextmanager
    def write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, error) from error


def _finite(value: object) -> object:
    """None in place of infinity and NaN, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _complete_lines(path: Path) -> list[str]:
    """The complete lines of a file; the last one may be cut off if the run was killed."""
    if not path.is_file():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


class TerminalDisplay:
    """A progress bar with samples/s, losses and the time left; lines if there is no terminal."""

    def __init__(self, step: int, max_steps: int) -> None:
        self.console = Console()
        self.averages: dict[str, float] = {}
        self.step, self.max_steps, self.last_line = step, max_steps, time.monotonic()
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[averages]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=max_steps, completed=step, averages="")
        self.started, self.first_step = time.monotonic(), step
        self.progress.start()

    def close(self) -> None:
        self.progress.stop()

    def write(self, row: MetricsRow) -> None:
        self.step = int(row["step"] or 0)
        validation = {
            name.removeprefix("validation/"): v for name, v in row.items() if "validation/" in name
        }
        if validation:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in validation.items())
            self.print(f"validation at step {self.step}: {shown}")
            return
        for name, value in row.items():
            if not name.startswith("loss/") and name != "samples_per_second":
                continue
            if isinstance(value, float) and math.isfinite(value):
                past = self.averages.get(name, value)
                self.averages[name] = SMOOTHING * past + (1 - SMOOTHING) * value
        self.progress.update(self.task, completed=self.step, averages=self.averages_text())
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = (
                (now - self.started) / (self.step - self.first_step) * (self.max_steps - self.step)
            )
            self.print(
                f"step {self.step}/{self.max_steps}, {left:.0f} s left, {self.averages_text()}"
            )

    def averages_text(self) -> str:
        losses = [
            f"{name.removeprefix('loss/')} {value:.2f}"
            for name, value in sorted(self.averages.items())
            if name.startswith("loss/")
        ]
        return ", ".join([f"{self.averages.get('samples_per_second', 0):.0f} samples/s", *losses])

    def print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


SKIPPED_STEPS, WARMUP_STEPS, RECORDED_STEPS = 3, 1, 3
"""Steps before the profiler starts, while it warms up, and in the trace (our choice: by then
allocators and caches have settled)."""


@contextmanager
def profiler(run: TrainerConfig) -> Iterator[Callable[[], None]]:
    """Profile early steps of rank 0 if the run asks for it; yields what to call after each step.

    The trace is written to ``trace.json.gz`` in the run's folder. It shows the parts of a step by
    their names in `step_metrics.PARTS`.
    """
    if not run.profile or rank() != 0:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(finished: profile) -> None:
        finished.export_chrome_trace(str(run.output_dir / "trace.json.gz"))

    with profile(
        activities=activities,
        schedule=schedule(
            skip_first=SKIPPED_STEPS, wait=0, warmup=WARMUP_STEPS, active=RECORDED_STEPS, repeat=1
        ),
        on_trace_ready=write,
    ) as running:
        yield running.step

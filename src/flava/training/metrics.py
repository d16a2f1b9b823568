"""Where metrics go: JSON lines, TensorBoard, the screen, Weights & Biases, a profile."""

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
from flava.training.run import TrainerConfig

NAMED_IN = "wandb-id"
"""The file in a run's folder by which it is the same run there when it goes on."""


class Tracker:
    """Tells a project of Weights & Biases every figure of a run.

    Raises:
        ValueError: the library is not installed.
    """

    def __init__(self, run: TrainerConfig) -> None:
        self.run: Any = library().init(
            project=run.wandb,
            id=identity(run.output_dir),
            resume="allow",
            name=run.output_dir.name,
            dir=run.output_dir,
            config=TypeAdapter(type(run)).dump_python(run, mode="json"),
        )
        # Its own count must not go back, which that of a run which goes on does.
        self.run.define_metric("*", step_metric="step")

    def write(self, row: Mapping[str, float | int | str | None]) -> None:
        self.run.log({name: value for name, value in row.items() if value is not None})

    def close(self) -> None:
        self.run.finish()


def library() -> Any:
    try:
        return importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ValueError(
            "wandb is set, but Weights & Biases is not installed: pip install 'flava[wandb]', or "
            "leave it out"
        ) from error


def identity(folder: Path) -> str:
    path = folder / NAMED_IN
    if not path.exists():
        write_atomically(path, uuid4().hex[:8].encode())
    return path.read_text()


MetricsRow = Mapping[str, float | int | str | None]


class Watch:
    """All that is told of a run as it goes on; rank 0 tells it."""

    def __init__(self, run: TrainerConfig, step: int) -> None:
        self.told: list[Metrics | Display | Tracker] = []
        if rank() == 0:
            tracker = [Tracker(run)] if run.wandb else []
            self.told = [*tracker, Metrics(run.output_dir, step), Display(step, run.max_steps)]

    def write(self, row: MetricsRow) -> None:
        """A row an update, or a probe."""
        for each in self.told:
            each.write(row)

    def close(self) -> None:
        for each in self.told:
            each.close()


SMOOTHING = 0.95
"""Weight of the past in the figures on the screen."""

SECONDS_BETWEEN_LINES = 15
"""Where there is no terminal to draw a bar on, a line is printed this often."""


class Metrics:
    """``metrics.jsonl``: a row an update, and a row a probe. Rows after ``step`` are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in lines(self.path) if json.loads(line)["step"] <= step]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: MetricsRow) -> None:
        """Raises OSError if the disk is full; rows before this one stay."""
        with self.named_errors():
            with self.path.open("a") as file:
                file.write(json.dumps({k: finite(v) for k, v in row.items()}) + "\n")
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, int(row["step"] or 0))

    def close(self) -> None:
        with self.named_errors():
            self.board.close()

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, error) from error


def finite(value: object) -> object:
    """JSON has neither infinity nor NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(path: Path) -> list[str]:
    """The whole lines of a file that may have been cut off while it was written."""
    if not path.is_file():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


class Display:
    """A progress bar with rate, losses and time left; plain lines where there is no terminal."""

    def __init__(self, step: int, max_steps: int) -> None:
        self.console = Console()
        self.smooth: dict[str, float] = {}
        self.step, self.max_steps, self.last_line = step, max_steps, time.monotonic()
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=max_steps, completed=step, figures="")
        self.started, self.first_step = time.monotonic(), step
        self.progress.start()

    def close(self) -> None:
        self.progress.stop()

    def write(self, row: MetricsRow) -> None:
        self.step = int(row["step"] or 0)
        probed = {
            name.removeprefix("validation/"): v for name, v in row.items() if "validation/" in name
        }
        if probed:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in probed.items())
            self.say(f"probe at step {self.step}: {shown}")
            return
        for name, value in row.items():
            if not name.startswith("loss/") and name != "samples_per_second":
                continue
            if isinstance(value, float) and math.isfinite(value):
                past = self.smooth.get(name, value)
                self.smooth[name] = SMOOTHING * past + (1 - SMOOTHING) * value
        self.progress.update(self.task, completed=self.step, figures=self.figures())
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = (
                (now - self.started) / (self.step - self.first_step) * (self.max_steps - self.step)
            )
            self.say(f"step {self.step}/{self.max_steps}, {left:.0f} s left, {self.figures()}")

    def figures(self) -> str:
        losses = [
            f"{name.removeprefix('loss/')} {value:.2f}"
            for name, value in sorted(self.smooth.items())
            if name.startswith("loss/")
        ]
        return ", ".join([f"{self.smooth.get('samples_per_second', 0):.0f} samples/s", *losses])

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


PASSED, WARM, RECORDED = 3, 1, 3
"""Updates before the profiler, while it warms up, and in the trace (ours: allocators and caches
have settled by then)."""


@contextmanager
def profiled(run: TrainerConfig) -> Iterator[Callable[[], None]]:
    """What is to be called after each update. ``trace.json.gz`` in the run's folder is of rank 0;
    parts of an update stand in it by the names of `meter.PARTS`."""
    if not run.profile or rank() != 0:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(run.output_dir / "trace.json.gz"))

    with profile(
        activities=activities,
        schedule=schedule(skip_first=PASSED, wait=0, warmup=WARM, active=RECORDED, repeat=1),
        on_trace_ready=write,
    ) as profiler:
        yield profiler.step

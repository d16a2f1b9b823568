"""Where a run's figures go: one JSON line an update, TensorBoard, the screen, and a tracker."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from flava.distributed import rank
from flava.training.files import unwritable, write_whole
from flava.training.run import LoopConfig
from flava.training.tracker import Tracker

Row = Mapping[str, float | int | str | None]


class Watch:
    """All that is told of a run as it goes on; rank 0 tells it."""

    def __init__(self, run: LoopConfig, step: int) -> None:
        self.told: list[Metrics | Display | Tracker] = []
        if rank() == 0:
            tracker = [Tracker(run)] if run.wandb else []
            self.told = [*tracker, Metrics(run.output_dir, step), Display(step, run.max_steps)]

    def write(self, row: Row) -> None:
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
        write_whole(self.path, "".join(line + "\n" for line in kept).encode())
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def write(self, row: Row) -> None:
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
            raise unwritable(self.path, error) from error


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

    def write(self, row: Row) -> None:
        self.step = int(row["step"] or 0)
        probed = {name.removeprefix("probe/"): v for name, v in row.items() if "probe/" in name}
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

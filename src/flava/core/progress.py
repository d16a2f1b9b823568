"""Progress bars on the standard error stream, and durations in words."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

BAR_WIDTH = 24
"""Characters."""
SHARES = 1_000_000
"""Steps of a bar that shows a share between 0 and 1."""
SECONDS_BETWEEN_LINES = 15
"""Where there is no terminal to draw a bar on, ``share_progress`` prints a line this often."""

T = TypeVar("T")


class RateColumn(ProgressColumn):
    """How many items are done in a second."""

    def render(self, task: Task) -> Text:
        """Nothing is shown before there is a rate."""
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text()
        return Text(f"{speed:,.0f} a second" if speed >= 10 else f"{speed:.1f} a second")


class Progress(AbstractContextManager["Progress"]):
    """A bar for work of several steps: items done, how many a second, and the time left.

    Nothing is shown if ``quiet``, or where standard error is no terminal.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR_WIDTH),
            MofNCompleteColumn(),
            RateColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def step(self, name: str, total: int | None = None) -> None:
        """Begin the next step, of ``total`` items if that is known."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(name, total=total)
        self._bar.start()

    def describe(self, name: str) -> None:
        """Show another name for the step, such as that of the item in work."""
        self._bar.update(self._task, description=name)

    def advance(self, items: int) -> None:
        """Count so many more items of the step as done."""
        self._bar.advance(self._task, items)

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()


@contextmanager
def progress(title: str | None, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for one step, if it has a title: yields the function that counts items as done."""
    with Progress(quiet=title is None) as bar:
        bar.step(title or "", total)
        yield bar.advance


def counted(
    items: Iterable[T], size: Callable[[T], int], total: int, title: str | None
) -> Iterator[T]:
    """The same items under a progress bar, which each advances by its size."""
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance(size(item))


@contextmanager
def share_progress(title: str) -> Iterator[Callable[[float, int, str], None]]:
    """A bar for rows whose number is not known before they are read; it stays when it is done.

    Yields a function of the share done (0 to 1), the rows done, and a note to show behind them.
    The first call may come after rows of an earlier process: rate and time left count from it.
    Where standard error is no terminal, a line is printed every ``SECONDS_BETWEEN_LINES``.
    """
    console = Console(stderr=True)
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=BAR_WIDTH),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(title, total=SHARES, figures="")
    first: tuple[float, float, int] | None = None
    printed = time.monotonic()

    def show(share: float, rows: int, note: str = "") -> None:
        nonlocal first, printed
        now = time.monotonic()
        if first is None:
            first = now, share, rows
            bar.reset(task, completed=round(share * SHARES))
        seconds = max(now - first[0], 1e-9)
        figures = f"{rows:,} rows, {(rows - first[2]) / seconds:,.0f} rows/s{note}"
        bar.update(task, completed=round(share * SHARES), figures=figures)
        if not console.is_terminal and now - printed > SECONDS_BETWEEN_LINES:
            printed = now
            left = seconds * (1 - share) / max(share - first[1], 1e-9)
            console.print(f"{share:.0%}, about {left:.0f} s left, {figures}", highlight=False)

    with bar:
        yield show


def duration(seconds: float) -> str:
    """A duration in words: "1 h 05 min", "5 min 03 s", "3 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

"""A line on the standard error stream that tells how far a build is."""

import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.status import Status

SHOWN_EVERY = 0.5
"""Seconds."""


class Progress(AbstractContextManager["Progress"]):
    """The step, the rows done in it, and how many a second."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True, quiet=quiet)
        self._status = Status("", console=console)
        self._name, self._rows, self._begun, self._shown = "", 0, 0.0, 0.0

    def step(self, name: str) -> None:
        """The next step begins."""
        self._name, self._rows, self._begun = name, 0, time.monotonic()
        self._status.update(name)
        self._status.start()

    def advance(self, rows: int) -> None:
        """So many more rows of it are done."""
        self._rows += rows
        now = time.monotonic()
        if now - self._shown > SHOWN_EVERY:
            rate = self._rows / max(1e-3, now - self._begun)
            self._status.update(f"{self._name}: {self._rows:,} done, {rate:,.0f} a second")
            self._shown = now

    def __exit__(self, *_error: object) -> None:
        self._status.stop()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

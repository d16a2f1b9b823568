"""Stopping between two updates, on Ctrl-C or SIGTERM, on all ranks after the same update."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flava.distributed import world_size

STOPPING = (signal.SIGTERM, signal.SIGINT)
"""The first of them that a rank got is what the run was stopped by."""


class Interrupted(Exception):  # noqa: N818
    """The run was stopped from outside; its message says how to go on."""

    def __init__(self, message: str, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number
        """The signal that stopped it."""


class Stopping:
    """Catches the signals that ask a run to stop, and knows when all ranks know of one.

    A rank alone stops at once on a second Ctrl-C. Of several ranks one gets each Ctrl-C twice, from
    the terminal and from torchrun, and the second says nothing new.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.agreed: signal.Signals | None = None

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Where the signals mean to stop after the update."""
        previous = {number: signal.signal(number, self.ask) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def ask(self, number: int, _frame: Any) -> None:
        if self.asked and number == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)

    @property
    def by(self) -> signal.Signals | None:
        """The signal to stop by now."""
        return self.asked if world_size() == 1 else self.agreed

    def votes(self) -> list[float]:
        """What this rank asks for, to be added up over ranks."""
        return [float(self.asked is number) for number in STOPPING]

    def count(self, votes: Sequence[float]) -> None:
        """The sums of all ranks' votes."""
        self.agreed = next((n for n, v in zip(STOPPING, votes, strict=True) if v), None)

"""Starting the processes of a run on this machine, and stopping between two steps."""

import ctypes
import logging
import os
import platform
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from flava.core.distributed import world_size

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


ELASTIC = "torch.distributed.elastic.multiprocessing.api"
"""Logs how ranks ended."""


def is_rank() -> bool:
    """Whether this process was started as one of several ranks."""
    return "WORLD_SIZE" in os.environ


def launch(work: Callable[..., None], run: object, processes: int, max_restarts: int) -> None:
    """Let ``processes`` ranks do ``work(run)``, and wait for them.

    If one fails the others are stopped, and all are started again at most ``max_restarts`` times.

    Raises:
        ValueError: a rank failed; it has said why.
        Interrupted: Ctrl-C, or SIGTERM; all ranks have written their checkpoint.
    """
    logging.getLogger(ELASTIC).addFilter(without_traceback)
    share = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="flava",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(config, work)(run)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ValueError(
            f"rank {rank} of {processes} ended with {ending(failure.exitcode)}, and the others "
            "were stopped: what it said is above. To go on from the last checkpoint, add --resume"
        ) from error
    except SignalException as stop:
        raise Interrupted("all ranks were stopped", stop.sigval) from stop


def without_traceback(record: logging.LogRecord) -> bool:
    """It is one of the launcher itself, and says nothing of what happened in the rank."""
    record.exc_info = None
    return True


def ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The numbers of these parameters in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free, instead of giving it back to the kernel.

    Every update frees and takes the same large tensors; taken from the kernel they are zeroed page
    by page each time. A pair update of `flava-tiny` took 13 % less time without (docs/log.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

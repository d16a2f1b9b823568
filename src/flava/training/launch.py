"""Starts the ranks of a run on this machine, and stops a run between two steps."""

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

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop a run. If ranks got different ones, the first of these counts."""


class Interrupted(Exception):  # noqa: N818
    """The run was stopped by a signal; the message says how to resume it."""

    def __init__(self, message: str, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number
        """The signal that stopped it."""


class StopSignals:
    """Catches the signals that stop a run, and lets all ranks stop after the same step.

    A single process stops at once on a second Ctrl-C. With several ranks a second one is ignored,
    since each Ctrl-C arrives twice: from the terminal and from torchrun.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.agreed: signal.Signals | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """A context in which the signals stop the run after the current step."""
        previous = {number: signal.signal(number, self.receive) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def receive(self, number: int, _frame: Any) -> None:
        if self.received and number == signal.SIGINT and world_size() == 1:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    @property
    def stop_by(self) -> signal.Signals | None:
        """The signal that the run must stop by now, if there is one."""
        return self.received if world_size() == 1 else self.agreed

    def flags(self) -> list[float]:
        """For each of `STOP_SIGNALS`, 1 if this rank received it: to be summed over ranks."""
        return [float(self.received is number) for number in STOP_SIGNALS]

    def agree(self, sums: Sequence[float]) -> None:
        """Take the sums of all ranks' flags, which are the same on every rank."""
        self.agreed = next((n for n, v in zip(STOP_SIGNALS, sums, strict=True) if v), None)


ELASTIC_LOGGER = "torch.distributed.elastic.multiprocessing.api"
"""The logger of torch's launcher, which reports how ranks ended."""


def is_rank() -> bool:
    """Whether this process was started as one of several ranks."""
    return "WORLD_SIZE" in os.environ


def launch(work: Callable[..., None], run: object, processes: int, max_restarts: int) -> None:
    """Start ``processes`` ranks that call ``work(run)``, and wait for them.

    If one fails, the others are stopped, and all are started again, at most ``max_restarts`` times.

    Raises:
        ValueError: a rank failed; it has printed the reason.
        Interrupted: Ctrl-C or SIGTERM stopped the ranks, after they wrote a checkpoint.
    """
    logging.getLogger(ELASTIC_LOGGER).addFilter(_without_traceback)
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
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
            f"rank {rank} of {processes} ended with {_describe_exit(failure.exitcode)}, and the "
            "others were stopped: its message is above. To continue from the last checkpoint, add "
            "--resume"
        ) from error
    except SignalException as stop:
        raise Interrupted("all ranks were stopped", stop.sigval) from stop


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop a log record's traceback: it is the launcher's, and says nothing about the rank."""
    record.exc_info = None
    return True


def _describe_exit(code: int) -> str:
    """An exit status as a reader knows it; negative codes are signals."""
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of these parameters of ``mallopt`` in glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors instead of returning it to the kernel.

    Every step frees and allocates the same large tensors, and the kernel zeroes what it hands out
    page by page each time. Without that, a step on pairs of `flava-tiny` took 13 % less time
    (docs/log.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

"""Worker processes that make the batches of one source, in a fixed order."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset

from flava.core.processes import end_with_parent
from flava.data.collate import Builder, Collated, Collator
from flava.data.streaming import Share, Window

BESIDE = 128
"""Files that a process has open beside its shards: libraries, pipes, batches on their way."""
MOST = 10_240
"""What macOS allows a process, where it says that it allows any number."""


def allow_open_files() -> int | None:
    """Let this process, and those that it starts, keep as many files open as the system lets them.

    By default many systems stop at 1,024. Returns how many, or None where that is not told.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (most, MOST):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            break
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if allowed == resource.RLIM_INFINITY else allowed


def too_many_streams(streams: int) -> str | None:
    """Why a process cannot read so many streams, if it cannot."""
    allowed = allow_open_files()
    if allowed is None or streams + BESIDE <= allowed:
        return None
    return (
        f"a process reads {streams} shards at once, and may open {allowed} files, of which others "
        f"take {BESIDE}: allow more (ulimit -n), or lower data.streams, or raise data.workers"
    )


PREFETCH = 2
"""Batches that each worker keeps ready."""


@runtime_checkable
class Windows(Protocol):
    """The windows of a source that fall to one worker of a rank, without end."""

    def __call__(self, *, share: Share) -> Iterator[Window[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A rank's part of every batch of a source from number ``first`` on."""

    windows: Windows
    collator: Collator[Any, Any]
    seed: int
    first: int
    turns: int | None = None
    """Where one worker must make all the windows of a turn: in how many turns they are made."""
    rank: int = 0
    world: int = 1

    def start(self, workers: int) -> Iterator[Collated]:
        """Starts the workers; with 0 of them this process makes the batches when they are due.

        The workers end when the iterator is deleted.
        """
        turns = self.turns or max(1, workers)
        makers = max(1, min(workers, turns))
        # A loader for each worker: so it is this process that says which of them is next.
        every = [self.made_by(worker, makers, turns) for worker in range(makers)]
        loaders = [made.start(in_process=not workers) for made in every]
        return _in_turn(loaders, self.first, turns)

    def made_by(self, worker: int, workers: int, turns: int) -> "Made":
        """What one worker makes."""
        share = Share(
            rank=self.rank,
            world=self.world,
            worker=worker,
            workers=workers,
            turns=turns,
            start=self.first,
        )
        return Made(self.windows, Builder(self.collator, self.seed, self.rank), share)


@dataclass(frozen=True)
class Made(IterableDataset[Collated]):
    """One worker's batches."""

    windows: Windows
    builder: Builder[Any, Any]
    share: Share

    def __iter__(self) -> Iterator[Collated]:
        return map(self.builder, self.windows(share=self.share))

    def start(self, in_process: bool) -> Iterator[Collated]:
        """The same, from this process or from another that is started."""
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=0 if in_process else 1,
            prefetch_factor=None if in_process else PREFETCH,
            worker_init_fn=_init_worker,
            # A generator of its own: else starting the loader would draw from the global one.
            generator=torch.Generator(),
            # A GPU takes such memory while it computes.
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


def _in_turn(loaders: Sequence[Iterator[Collated]], first: int, turns: int) -> Iterator[Collated]:
    for number in count(first):
        yield next(loaders[number % turns % len(loaders)])


def _init_worker(_worker: int) -> None:
    # Else the worker of a killed process waits for ever, and holds its connections to other ranks.
    end_with_parent()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # These reach the whole process group: the training process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

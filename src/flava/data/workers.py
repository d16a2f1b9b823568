"""Worker processes that read, decode and collate the batches of one source, in a fixed order."""

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
from flava.data.collate import BatchBuilder, Collated, Collator
from flava.data.streaming import RawBatch, WorkerShare

OTHER_FILES = 128
"""Files that a process has open beside its shards: libraries, pipes, batches in shared memory."""
MACOS_LIMIT = 10_240
"""Files that macOS lets a process open, where it says that any number is allowed."""


def _allow_open_files() -> int | None:
    """Raise the number of files that this process and its children may open as far as allowed.

    The default of many systems is 1,024. Returns the number, or None where there is no limit or it
    is not known.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return None
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard_limit, MACOS_LIMIT):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard_limit))
            break
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if allowed == resource.RLIM_INFINITY else allowed


def too_many_streams(streams: int) -> str | None:
    """Why a process cannot read so many streams at once; None if it can."""
    allowed = _allow_open_files()
    if allowed is None or streams + OTHER_FILES <= allowed:
        return None
    return (
        f"a process reads {streams} shards at once, and may open {allowed} files, of which others "
        f"take {OTHER_FILES}: allow more (ulimit -n), or lower data.streams, or raise data.workers"
    )


PREFETCH = 2
"""Batches that each worker keeps ready."""


@runtime_checkable
class RawBatches(Protocol):
    """The raw batches of a source that fall to one worker of a rank, without end."""

    def __call__(self, *, share: WorkerShare) -> Iterator[RawBatch[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class SourceBatches:
    """A rank's part of every batch of a source from number ``first`` on."""

    raw_batches: RawBatches
    collator: Collator[Any, Any]
    seed: int
    first: int
    groups: int | None = None
    """Where one worker must read all batches of a group: the number of groups."""
    rank: int = 0
    world_size: int = 1

    def start(self, workers: int) -> Iterator[Collated]:
        """Start the workers; with 0 of them this process makes each batch when it is asked for.

        The workers end when the iterator is deleted.
        """
        groups = self.groups or max(1, workers)
        used = max(1, min(workers, groups))
        # Each worker has a DataLoader of its own, so that this process decides which one is next.
        parts = [self.of_worker(worker, used, groups) for worker in range(used)]
        loaders = [part.start(in_process=not workers) for part in parts]
        return _in_turn(loaders, self.first, groups)

    def of_worker(self, worker: int, workers: int, groups: int) -> "WorkerBatches":
        """The batches that one worker makes."""
        share = WorkerShare(
            rank=self.rank,
            world_size=self.world_size,
            worker=worker,
            workers=workers,
            groups=groups,
            first=self.first,
        )
        builder = BatchBuilder(self.collator, self.seed, self.rank)
        return WorkerBatches(self.raw_batches, builder, share)


@dataclass(frozen=True)
class WorkerBatches(IterableDataset[Collated]):
    """The batches that one worker makes."""

    raw_batches: RawBatches
    builder: BatchBuilder[Any, Any]
    share: WorkerShare

    def __iter__(self) -> Iterator[Collated]:
        return map(self.builder, self.raw_batches(share=self.share))

    def start(self, in_process: bool) -> Iterator[Collated]:
        """The batches, made by this process or by a worker process that is started."""
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=0 if in_process else 1,
            prefetch_factor=None if in_process else PREFETCH,
            worker_init_fn=_init_worker,
            # With its own generator, starting the loader draws nothing from the global one.
            generator=torch.Generator(),
            # Pinned memory is copied to a GPU while the GPU computes.
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)


def _in_turn(loaders: Sequence[Iterator[Collated]], first: int, groups: int) -> Iterator[Collated]:
    for number in count(first):
        yield next(loaders[number % groups % len(loaders)])


def _init_worker(_worker: int) -> None:
    # Otherwise the worker of a killed process waits for ever, and keeps its connections open.
    end_with_parent()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # These signals reach the whole process group; the training process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

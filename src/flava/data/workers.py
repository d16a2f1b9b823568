"""Worker processes that make the batches of one source, in a fixed order."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flava.data.collate import Builder, Collated, Collator
from flava.data.stream import Share, Window

PREFETCH = 2
"""Batches that each worker keeps ready."""


@runtime_checkable
class Windows(Protocol):
    """The windows of a source that fall to one worker, without end."""

    def __call__(self, *, share: Share) -> Iterator[Window[Any]]: ...


@dataclass(frozen=True, kw_only=True)
class Batches(IterableDataset[Collated]):
    """All batches of a source from number ``first`` on; each worker makes every n-th."""

    windows: Windows
    collator: Collator[Any, Any]
    seed: int
    first: int

    def __iter__(self) -> Iterator[Collated]:
        info = get_worker_info()
        worker, streams = (0, 1) if info is None else (info.id, info.num_workers)
        # PyTorch asks the workers in turn from the first one on: that one makes batch ``first``.
        share = Share(stream=(worker + self.first) % streams, streams=streams, start=self.first)
        return map(Builder(self.collator, self.seed), self.windows(share=share))

    def start(self, workers: int) -> Iterator[Collated]:
        """Starts the workers; with 0 of them this process makes the batches when they are due.

        The workers end when the iterator is deleted.
        """
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=_init_worker,
            # A generator of its own: else starting the loader would draw from the global one.
            generator=torch.Generator(),
        )
        return iter(loader)


def _init_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # These reach the whole process group: the training process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

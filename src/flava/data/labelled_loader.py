"""Labelled rows to batches: endless and shuffled for training, once and in order for evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Generic

import numpy as np
import torch

from flava.batch import Inputs, LabelledBatch
from flava.data.collate import Collated, Collator
from flava.data.errors import SampleError, Skipped
from flava.data.labelled import Row, Rows
from flava.data.readers import Read, Reader
from flava.data.skips import Skips
from flava.data.source import skip_sample
from flava.data.stream import memory_windows
from flava.data.workers import Batches


@dataclass(frozen=True)
class LabelledExample(Generic[Read]):
    """A row as it was read, with the number of its class."""

    key: str
    read: Read
    label: int


@dataclass(frozen=True, kw_only=True)
class LabelledCollator(Collator[Row, LabelledExample[Read]], Generic[Read]):
    """Rows to batches for training."""

    reader: Reader[Read]
    classes: tuple[str, ...]

    def decode(self, raw: Row, rng: np.random.Generator, /) -> LabelledExample[Read]:
        assert raw.label is not None
        return LabelledExample(raw.key, self.reader.read(raw, rng), self.classes.index(raw.label))

    def collate(
        self, examples: Sequence[LabelledExample[Read]], _rng: np.random.Generator, /
    ) -> LabelledBatch:
        return LabelledBatch(
            keys=tuple(example.key for example in examples),
            inputs=self.reader.batch([example.read for example in examples]),
            labels=torch.tensor([example.label for example in examples]),
        )


class LabelledLoader(Iterator[LabelledBatch], AbstractContextManager["LabelledLoader"]):
    """An endless iterator over batches: each epoch is a permutation of the rows.

    Batch number n is a pure function of ``seed`` and n, so a loader that starts at ``first`` yields
    what an uninterrupted one yields from there on. ``skips`` counts what could not be decoded; its
    places are filled with the rows that follow.

    Raises:
        ValueError: while iterating, most rows cannot be decoded.
    """

    def __init__(
        self,
        rows: Rows,
        collator: LabelledCollator,
        *,
        batch_size: int,
        seed: int,
        first: int = 0,
        workers: int = 0,
    ) -> None:
        self.skips = Skips("data", "the training data", "correct the data")
        self._batches: Iterator[Collated] | None = Batches(
            windows=partial(memory_windows, rows.rows, batch_size=batch_size, seed=seed),
            collator=collator,
            seed=seed,
            first=first,
        ).start(workers)

    def __next__(self) -> LabelledBatch:
        if self._batches is None:
            raise StopIteration
        batch = self.skips.batch_of(next(self._batches))
        assert isinstance(batch, LabelledBatch)
        return batch

    def close(self) -> None:
        """Ends the worker process; the loader yields nothing afterwards."""
        self._batches = None

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Part:
    """Some rows in their order as a model reads them (None where none could be decoded)."""

    rows: tuple[Row, ...]
    inputs: Inputs | None
    skipped: tuple[Skipped, ...]


def in_order(rows: Sequence[Row], reader: Reader[Read], batch_size: int) -> Iterator[Part]:
    """Every row once, with nothing drawn at random."""
    for start in range(0, len(rows), batch_size):
        kept: list[Row] = []
        read: list[Read] = []
        skipped: list[Skipped] = []
        for row in rows[start : start + batch_size]:
            try:
                read.append(reader.read(row, None))
            except SampleError as error:
                skipped.append(skip_sample(row, error))
            else:
                kept.append(row)
        inputs = reader.batch(read) if read else None
        yield Part(tuple(kept), inputs, tuple(skipped))

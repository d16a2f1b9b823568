"""Raw samples in an endless, seeded order, cut into windows: the places of one batch each.

Which samples a window holds depends on the seed and the window's number alone, never on what could
be decoded. So a run resumes at any window without decoding the ones before it. A place whose
sample turns out corrupt is filled with a spare: a look at the samples that follow, which come
again in their own turn.

A source that fits in memory is read once, and each epoch is a full permutation of it; windows are
then the same for any number of workers. A larger one is streamed: each worker reads its own share
of the shards, in an order drawn anew each epoch, through a shuffle buffer.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from flava.data.errors import Skipped
from flava.data.seeding import generator

IN_MEMORY_BYTES = 256 * 2**20
"""A source whose files are larger than this, once unpacked, is streamed."""
GZIP_RATIO = 5
"""Assumed ratio of a gzip file's content to its size: English text shrinks 3 to 5 times."""
BUFFER_BYTES = 64 * 2**20
"""Size of each worker's shuffle buffer for a source that is streamed."""
SAMPLE_OVERHEAD_BYTES = 500
"""What Python's objects add to a sample's bytes."""


@runtime_checkable
class Sampled(Protocol):
    """A sample before decoding: where it is from, and its name there."""

    @property
    def shard(self) -> str: ...

    @property
    def key(self) -> str: ...


@runtime_checkable
class Sized(Sampled, Protocol):
    """A sample that can be streamed: it tells how much of the shuffle buffer it takes."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


Content = TypeVar("Content", bound=Sampled)
Streamed = TypeVar("Streamed", bound=Sized)

Reader = Callable[[Path], Iterator[Streamed | Skipped]]
"""A shard -> its samples, the same each time."""


@dataclass(frozen=True)
class Item(Generic[Content]):
    """A raw sample, or the report on one that could not be read, in one epoch."""

    epoch: int
    content: Content | Skipped


@dataclass(frozen=True)
class Window(Generic[Content]):
    """The places of the source's batch number ``number``, and endless spares for corrupt ones."""

    number: int
    items: list[Item[Content]]
    spares: Iterator[Item[Content]]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The windows of one of ``streams`` workers: number ``stream``, ``stream + streams``, ..."""

    stream: int
    streams: int
    start: int
    """Windows with a smaller number are over already: the run was resumed."""

    @property
    def skipped_windows(self) -> int:
        """How many of this worker's windows are over."""
        return max(0, -(-(self.start - self.stream) // self.streams))


def windows(
    paths: Sequence[Path], read: Reader[Streamed], *, batch_size: int, seed: int, share: Share
) -> Iterator[Window[Streamed]]:
    """The windows of a source that fall to one worker, without end.

    Raises:
        ValueError: the source is so small that a worker of many has no sample to read.
    """
    if sum(_unpacked_bytes(path) for path in paths) <= IN_MEMORY_BYTES:
        contents = [content for path in paths for content in read(path)]
        return memory_windows(contents, batch_size=batch_size, seed=seed, share=share)
    return _streamed_windows(paths, read, batch_size, seed, share)


def _unpacked_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(_unpacked_bytes(file) for file in path.rglob("*") if file.is_file())
    return path.stat().st_size * (GZIP_RATIO if path.suffix in (".gz", ".tgz") else 1)


def memory_windows(
    contents: Sequence[Content | Skipped], *, batch_size: int, seed: int, share: Share
) -> Iterator[Window[Content]]:
    """The windows of samples that are at hand, that fall to one worker, without end."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return generator(seed, epoch, "order").permutation(len(contents)).tolist()

    def item(position: int) -> Item[Content]:
        epoch, index = divmod(position, len(contents))
        return Item(epoch, contents[order(epoch)[index]])

    first = share.stream + share.skipped_windows * share.streams
    for number in count(first, share.streams):
        start = number * batch_size
        items = [item(position) for position in range(start, start + batch_size)]
        yield Window(number, items, map(item, count(start + batch_size)))


def _streamed_windows(
    paths: Sequence[Path], read: Reader[Streamed], batch_size: int, seed: int, share: Share
) -> Iterator[Window[Streamed]]:
    ahead: deque[Item[Streamed]] = deque()
    stream = chain.from_iterable(_epoch(paths, read, seed, epoch, share) for epoch in count())

    def spares() -> Iterator[Item[Streamed]]:
        for index in count():
            if index == len(ahead):
                ahead.append(next(stream))
            yield ahead[index]

    for local in count():
        items = [ahead.popleft() if ahead else next(stream) for _ in range(batch_size)]
        if local >= share.skipped_windows:
            yield Window(share.stream + local * share.streams, items, spares())


def _epoch(
    paths: Sequence[Path], read: Reader[Streamed], seed: int, epoch: int, share: Share
) -> Iterator[Item[Streamed]]:
    """One worker's share of one epoch: whole shards, or every n-th sample when those are few."""
    rng = generator(seed, epoch, "shards")
    shards = [paths[i] for i in rng.permutation(len(paths))]
    if len(shards) >= share.streams:
        contents = chain.from_iterable(map(read, shards[share.stream :: share.streams]))
    else:
        samples = enumerate(chain.from_iterable(map(read, shards)))
        contents = (c for index, c in samples if index % share.streams == share.stream)
    empty = True
    for content in _shuffled(contents, generator(seed, epoch, f"buffer {share.stream}")):
        empty = False
        yield Item(epoch, content)
    if empty:
        raise ValueError(
            f"worker {share.stream} of {share.streams} finds no sample in "
            f"{', '.join(map(str, paths))}: use fewer workers"
        )


def _shuffled(
    contents: Iterator[Streamed | Skipped], rng: np.random.Generator
) -> Iterator[Streamed | Skipped]:
    """The same contents in an order that is random within ``BUFFER_BYTES``."""
    buffer: list[Streamed | Skipped] = []
    size = 0
    for content in contents:
        buffer.append(content)
        size += _bytes(content)
        while size > BUFFER_BYTES:
            index = int(rng.integers(len(buffer)))
            buffer[index], buffer[-1] = buffer[-1], buffer[index]
            drawn = buffer.pop()
            size -= _bytes(drawn)
            yield drawn
    for index in rng.permutation(len(buffer)):
        yield buffer[index]


def _bytes(content: Sized | Skipped) -> int:
    return SAMPLE_OVERHEAD_BYTES + (0 if isinstance(content, Skipped) else content.size)

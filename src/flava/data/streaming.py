"""The samples of each batch, in an endless seeded order: from memory, or from streams of shards.

Which samples a batch has depends on the seed and the batch's number alone: not on what could be
decoded, nor on the number of ranks and workers. So a run resumes at any batch, on any number of
machines, without decoding the batches before it. Each rank fills its own slots of every batch. A
slot whose sample turns out corrupt is filled with a spare: a sample that the rank's slots of the
following batches hold, and which comes there again in its turn.

A source that fits in memory is read once, and each epoch is a full permutation of it. A larger one
is read in a fixed number of streams. Its shards, permuted anew in each epoch, are dealt to the
streams in turn, and each shard passes through a shuffle buffer of its own. The streams are divided
into groups that fill batches in turn: batch n takes its samples from the streams of group
n % groups, and each stream fills a fixed range of its slots. So the order depends on the seed and
the number of streams alone, and ranks and workers only divide the streams among them. Where the
slots of two ranks lie in the range of one stream, both read that stream and each keeps its own
slots: no sample comes twice or is lost, but the shard is read twice.

A batch mixes its streams, and a buffer mixes samples that lie within some tens of each other.
Neither mixes a whole source: its shards must hold it in a random order, as `flava data build`
writes them (docs/decisions/0029-shuffling.md).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from flava.core.randomness import random_generator
from flava.data.errors import SkippedSample
from flava.data.remote import Shard

IN_MEMORY_BYTES = 256 * 2**20
"""A source whose files are larger than this, once unpacked, is streamed."""
GZIP_RATIO = 5
"""Assumed ratio of a gzip file's content to its size: English text shrinks 3 to 5 times."""


@runtime_checkable
class NamedSample(Protocol):
    """A sample before decoding: the shard it is from, and its name there."""

    @property
    def shard(self) -> str: ...

    @property
    def key(self) -> str: ...


@runtime_checkable
class SizedSample(NamedSample, Protocol):
    """A sample that can be streamed: it knows how much of the shuffle buffer it takes."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


Content = TypeVar("Content", bound=NamedSample)
Streamed = TypeVar("Streamed", bound=SizedSample)

SampleReader = Callable[[Shard], Iterator[Streamed | SkippedSample]]
"""A shard -> its samples, the same each time; at least one, or a report that there is none."""


@dataclass(frozen=True)
class StreamItem(Generic[Content]):
    """A raw sample, or the report on one that could not be read, in one epoch."""

    epoch: int
    content: Content | SkippedSample


@dataclass(frozen=True)
class StreamPosition:
    """The beginning of a shard in a stream, from which a resumed run reads on.

    It is number ``shard`` in the endless sequence of the source's shards, and ``samples`` were
    taken from the stream before it.
    """

    shard: int
    samples: int


StreamPositions = Mapping[int, StreamPosition]
"""By the number of a stream: a position at or before the point that the stream has reached."""

SourcePositions = Mapping[str, StreamPositions]
"""Marks by the name of the source."""


@dataclass(frozen=True)
class RawBatch(Generic[Content]):
    """The samples of a source's batch, before decoding, in the slots of one rank.

    ``spares`` are endless, for slots whose samples cannot be used. ``positions`` are of the streams
    that the samples were read from.
    """

    number: int
    items: list[StreamItem[Content]]
    spares: Iterator[StreamItem[Content]]
    positions: StreamPositions = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WorkerShare:
    """What one worker of one rank reads: some of the batches, and the rank's slots of these."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    workers: int = 1
    """Workers of the rank."""
    groups: int = 1
    """Batch n belongs to group n % groups; one worker reads all batches of a group."""
    first: int = 0
    """The number of the first batch to read: a resumed run is past those before it."""

    def batch_numbers(self) -> Iterator[int]:
        """The numbers of the worker's batches, without end."""
        return (n for n in count(self.first) if n % self.groups % self.workers == self.worker)

    def slots(self, batch_size: int) -> range:
        """The rank's slots of a batch of ``batch_size``."""
        start, end = (batch_size * each // self.world_size for each in (self.rank, self.rank + 1))
        return range(start, end)


def fits_in_memory(paths: Sequence[Shard]) -> bool:
    """Whether a source is read once and kept; what is behind a URL is always streamed."""
    files = [path for path in paths if isinstance(path, Path)]
    return files == list(paths) and sum(map(_unpacked_bytes, files)) <= IN_MEMORY_BYTES


def _unpacked_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(_unpacked_bytes(file) for file in path.rglob("*") if file.is_file())
    return path.stat().st_size * (GZIP_RATIO if path.suffix in (".gz", ".tgz") else 1)


def batches_of_small_source(
    paths: Sequence[Shard],
    read: SampleReader[Streamed],
    *,
    batch_size: int,
    seed: int,
    share: WorkerShare,
) -> Iterator[RawBatch[Streamed]]:
    """A worker's batches, without end, of a source that is read into memory first."""
    contents = [content for path in paths for content in read(path)]
    return batches_from_memory(contents, batch_size=batch_size, seed=seed, share=share)


def batches_from_memory(
    contents: Sequence[Content | SkippedSample], *, batch_size: int, seed: int, share: WorkerShare
) -> Iterator[RawBatch[Content]]:
    """A worker's batches, without end, of samples that are in memory."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return random_generator(seed, epoch, "order").permutation(len(contents)).tolist()

    def item(position: int) -> StreamItem[Content]:
        epoch, index = divmod(position, len(contents))
        return StreamItem(epoch, contents[order(epoch)[index]])

    slots = share.slots(batch_size)
    for number in share.batch_numbers():
        positions = (
            range(start + slots.start, start + slots.stop)
            for start in count(number * batch_size, batch_size)
        )
        items = map(item, chain.from_iterable(positions))
        yield RawBatch(number, list(islice(items, len(slots))), items)


BUFFER_BYTES = 2**20
"""Size of each stream's shuffle buffer: small, so that many streams, with a shard open each, fit in
memory. More shards in a batch mix a source better than larger buffers do (decision 0029)."""
SAMPLE_OVERHEAD_BYTES = 500
"""What Python's objects add to a sample's bytes."""
MAX_GROUPS = 16
"""So many workers of a rank can share the reading; further ones have nothing to do."""


@dataclass(frozen=True)
class StreamLayout:
    """How the streams of a source are divided into groups that fill batches in turn."""

    groups: int
    streams_per_group: int

    @classmethod
    def of(cls, *, streams: int, shards: int, batch_size: int) -> "StreamLayout":
        """A layout of at most ``streams``, none of them without a shard or a slot in a batch.

        Groups divide the work of a rank's workers, the streams of a group that of ranks. Both
        numbers are powers of two, so that the usual numbers of workers and ranks divide them, and a
        group has at least as many streams as there are groups.
        """
        streams = min(streams, shards)
        groups = 1
        while groups < MAX_GROUPS and (2 * groups) ** 2 <= streams:
            groups *= 2
        per_group = min(streams // groups, batch_size)
        return cls(groups, 2 ** (per_group.bit_length() - 1))

    @property
    def streams(self) -> int:
        """The number of all streams."""
        return self.groups * self.streams_per_group

    def streams_per_worker(self, *, world_size: int, workers: int) -> int:
        """The most streams that one of ``workers`` processes of a rank reads."""
        # Two ranks may read one stream, where the slots of one end and those of the next begin.
        of_group = min(self.streams_per_group, -(-self.streams_per_group // world_size) + 1)
        return of_group * -(-self.groups // max(1, workers))

    def slots(self, index: int, batch_size: int) -> range:
        """The slots of a batch that stream ``index`` of its group fills: at least one."""
        start, end = (
            -(-batch_size * each // self.streams_per_group) for each in (index, index + 1)
        )
        return range(start, end)


@dataclass(frozen=True, kw_only=True)
class StreamedBatches(Generic[Streamed]):
    """The batches of a source that is read in streams, for the share of any worker.

    ``positions`` shorten the way to a batch that is not the first, and change nothing else.
    """

    paths: Sequence[Shard]
    read: SampleReader[Streamed]
    batch_size: int
    seed: int
    layout: StreamLayout
    positions: StreamPositions = field(default_factory=dict)

    def __call__(self, *, share: WorkerShare) -> Iterator[RawBatch[Streamed]]:
        """A worker's batches, without end."""
        groups: dict[int, _StreamGroup[Streamed]] = {}
        for number in share.batch_numbers():
            group = number % self.layout.groups
            if group not in groups:
                groups[group] = self._open_group(group, share, number // self.layout.groups)
            yield groups[group].next_batch(number)

    def _open_group(self, group: int, share: WorkerShare, done: int) -> "_StreamGroup[Streamed]":
        """The streams of a group that the rank reads, past the first ``done`` of its batches."""
        rank_slots = share.slots(self.batch_size)
        streams = []
        for index in range(self.layout.streams_per_group):
            slots = self.layout.slots(index, self.batch_size)
            if slots.start < rank_slots.stop and rank_slots.start < slots.stop:
                stream = self._open_stream(index * self.layout.groups + group, done * len(slots))
                streams.append(_StreamSlots(stream, slots))
        return _StreamGroup(streams, rank_slots, done)

    def _open_stream(self, number: int, taken: int) -> "_Stream[Streamed]":
        """A stream from which ``taken`` samples were taken."""
        beginning = StreamPosition(shard=number, samples=0)
        position = self.positions.get(number, beginning)
        stream = _Stream(
            self.paths,
            self.read,
            self.seed,
            number,
            self.layout.streams,
            position if position.samples <= taken else beginning,
        )
        stream.skip_to(taken)
        return stream


class _Stream(Iterator[StreamItem[Streamed]]):
    """One stream, read from a position on."""

    def __init__(
        self,
        paths: Sequence[Shard],
        read: SampleReader[Streamed],
        seed: int,
        number: int,
        streams: int,
        position: StreamPosition,
    ) -> None:
        self.number, self.position, self.taken = number, position, position.samples
        self._paths, self._read, self._seed, self._streams = paths, read, seed, streams
        self._items = self._read_shards(position.shard)

    def __next__(self) -> StreamItem[Streamed]:
        item = next(self._items)
        self.taken += 1
        return item

    def skip_to(self, samples: int) -> None:
        """Read on until ``samples`` have been taken since the stream's beginning."""
        for _ in range(samples - self.taken):
            next(self)

    def _read_shards(self, first: int) -> Iterator[StreamItem[Streamed]]:
        for shard in count(first, self._streams):
            self.position = StreamPosition(shard=shard, samples=self.taken)
            epoch, place = divmod(shard, len(self._paths))
            contents = self._read(self._paths[_order(self._seed, epoch, len(self._paths))[place]])
            for content in _shuffled(
                contents, random_generator(self._seed, epoch, f"buffer {place}")
            ):
                yield StreamItem(epoch, content)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, shards: int) -> list[int]:
    return random_generator(seed, epoch, "shards").permutation(shards).tolist()


@dataclass(frozen=True)
class _StreamSlots(Generic[Streamed]):
    """A stream, and the slots that it fills of each batch of its group."""

    stream: _Stream[Streamed]
    slots: range


class _StreamGroup(Generic[Streamed]):
    """The batches of one group in the rank's slots, past the first ``done`` of them."""

    def __init__(
        self, streams: Sequence[_StreamSlots[Streamed]], rank_slots: range, done: int
    ) -> None:
        self._streams, self._rank_slots, self._done = streams, rank_slots, done
        self._items = self._endless()
        self._ahead: deque[StreamItem[Streamed]] = deque()

    def next_batch(self, number: int) -> RawBatch[Streamed]:
        """The group's next batch, which is the source's batch ``number``."""
        ahead = self._ahead
        items = [ahead.popleft() if ahead else next(self._items) for _ in self._rank_slots]
        self._done += 1
        positions = {
            each.stream.number: each.stream.position
            for each in self._streams
            # Where spares were taken, the stream may have passed what later batches hold.
            if each.stream.position.samples <= self._done * len(each.slots)
        }
        return RawBatch(number, items, self._spares(), positions)

    def _spares(self) -> Iterator[StreamItem[Streamed]]:
        for index in count():
            if index == len(self._ahead):
                self._ahead.append(next(self._items))
            yield self._ahead[index]

    def _endless(self) -> Iterator[StreamItem[Streamed]]:
        while True:
            for each in self._streams:
                for slot in each.slots:
                    item = next(each.stream)
                    if slot in self._rank_slots:
                        yield item


def _shuffled(
    contents: Iterable[Streamed | SkippedSample], rng: np.random.Generator
) -> Iterator[Streamed | SkippedSample]:
    """The same contents, shuffled in a buffer of ``BUFFER_BYTES``."""
    buffer: list[Streamed | SkippedSample] = []
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


def _bytes(content: SizedSample | SkippedSample) -> int:
    return SAMPLE_OVERHEAD_BYTES + (0 if isinstance(content, SkippedSample) else content.size)

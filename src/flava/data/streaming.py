"""Samples in an endless, seeded order: from memory, or from a fixed number of streams.

Which samples a window holds depends on the seed and the window's number alone, never on what could
be decoded, nor on the number of ranks and workers. So a run resumes at any window without decoding
the ones before it, on any number of machines. Each rank fills its own part of every window's
places. A place whose sample turns out corrupt is filled with a spare: a look at the samples of the
same places in the windows that follow, which come again in their own turn.

A source that fits in memory is read once, and each epoch is a full permutation of it. A larger one
is streamed (`flava.data.streaming`).

The shards, permuted anew each epoch, are dealt in turn to the streams; each shard passes through a
shuffle buffer of its own. A window takes its samples from the streams of one turn, a fixed run of
its places from each. So the order depends on the seed and the number of streams alone: ranks and
workers only divide the streams among them. A stream in whose run of places two ranks meet is read
by both, and each keeps its own places: nothing comes twice or is lost, but the shard is read twice.

A window mixes its streams, and a buffer what lies within some tens of samples of each other.
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

SampleReader = Callable[[Shard], Iterator[Streamed | SkippedSample]]
"""A shard -> its samples, the same each time; at least one, or a report that there is none."""


@dataclass(frozen=True)
class StreamItem(Generic[Content]):
    """A raw sample, or the report on one that could not be read, in one epoch."""

    epoch: int
    content: Content | SkippedSample


@dataclass(frozen=True)
class StreamPosition:
    """Where a shard begins in a stream: it is the stream's number ``shard`` in the endless sequence
    of shards, and ``samples`` were taken from the stream before it."""

    shard: int
    samples: int


StreamPositions = Mapping[int, StreamPosition]
"""For some streams of a source, a mark that lies before where they stand."""

SourcePositions = Mapping[str, StreamPositions]
"""Marks by the name of the source."""


@dataclass(frozen=True)
class Window(Generic[Content]):
    """A rank's places of the source's batch number ``number``, and endless spares for corrupt ones.

    ``marks`` are of the streams that it was read from.
    """

    number: int
    items: list[StreamItem[Content]]
    spares: Iterator[StreamItem[Content]]
    marks: StreamPositions = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one worker of one rank makes: some of the windows, and of these the rank's places."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1
    """Of the rank."""
    turns: int = 1
    """Windows are made in turns; one worker makes every window of a turn."""
    start: int = 0
    """Windows with a smaller number are over already: the run was resumed."""

    def numbers(self) -> Iterator[int]:
        """The windows to make, without end."""
        return (n for n in count(self.start) if n % self.turns % self.workers == self.worker)

    def places(self, batch_size: int) -> range:
        """The rank's places of a window of ``batch_size``."""
        first, end = (batch_size * each // self.world for each in (self.rank, self.rank + 1))
        return range(first, end)


def fits_in_memory(paths: Sequence[Shard]) -> bool:
    """Whether a source is read once, and not streamed; what is behind a URL is always streamed."""
    files = [path for path in paths if isinstance(path, Path)]
    return files == list(paths) and sum(map(_unpacked_bytes, files)) <= IN_MEMORY_BYTES


def _unpacked_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(_unpacked_bytes(file) for file in path.rglob("*") if file.is_file())
    return path.stat().st_size * (GZIP_RATIO if path.suffix in (".gz", ".tgz") else 1)


def small_windows(
    paths: Sequence[Shard],
    read: SampleReader[Streamed],
    *,
    batch_size: int,
    seed: int,
    share: Share,
) -> Iterator[Window[Streamed]]:
    """A worker's windows, without end, of a source that is read once."""
    contents = [content for path in paths for content in read(path)]
    return memory_windows(contents, batch_size=batch_size, seed=seed, share=share)


def memory_windows(
    contents: Sequence[Content | SkippedSample], *, batch_size: int, seed: int, share: Share
) -> Iterator[Window[Content]]:
    """A worker's windows, without end, of samples that are at hand."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return random_generator(seed, epoch, "order").permutation(len(contents)).tolist()

    def item(position: int) -> StreamItem[Content]:
        epoch, index = divmod(position, len(contents))
        return StreamItem(epoch, contents[order(epoch)[index]])

    places = share.places(batch_size)
    for number in share.numbers():
        windows = (
            range(start + places.start, start + places.stop)
            for start in count(number * batch_size, batch_size)
        )
        items = map(item, chain.from_iterable(windows))
        yield Window(number, list(islice(items, len(places))), items)


BUFFER_BYTES = 2**20
"""Size of each stream's shuffle buffer: small, so that many streams, with a shard open each, fit in
memory. More shards in a window mix a source better than larger buffers do (decision 0029)."""
SAMPLE_OVERHEAD_BYTES = 500
"""What Python's objects add to a sample's bytes."""
MAX_TURNS = 16
"""So many workers of a rank can share the reading; further ones have nothing to do."""


@dataclass(frozen=True)
class StreamLayout:
    """Streams by turn and lane: window n is of turn ``n % turns``, and holds all of its lanes."""

    turns: int
    lanes: int

    @classmethod
    def of(cls, *, streams: int, shards: int, batch_size: int) -> "StreamLayout":
        """At most ``streams`` of them, none without a shard or a place in a batch.

        Turns divide the work of a rank's workers, lanes that of ranks. Both are powers of two, so
        that the usual numbers of workers and ranks divide them, and there are at least as many
        lanes as turns.
        """
        streams = min(streams, shards)
        turns = 1
        while turns < MAX_TURNS and (2 * turns) ** 2 <= streams:
            turns *= 2
        lanes = min(streams // turns, batch_size)
        return cls(turns, 2 ** (lanes.bit_length() - 1))

    @property
    def streams(self) -> int:
        """Their number in all."""
        return self.turns * self.lanes

    def streams_of(self, *, world: int, workers: int) -> int:
        """At most so many are read by one of ``workers`` processes of one of ``world`` ranks."""
        lanes = min(self.lanes, -(-self.lanes // world) + 1)  # ranks may meet in one
        return lanes * -(-self.turns // max(1, workers))

    def places(self, lane: int, batch_size: int) -> range:
        """The places of a window that a lane fills: at least one."""
        first, end = (-(-batch_size * each // self.lanes) for each in (lane, lane + 1))
        return range(first, end)


@dataclass(frozen=True, kw_only=True)
class StreamedWindows(Generic[Streamed]):
    """The windows of a source, for any share of them.

    ``marks`` shorten the way to a window that is not the first, and change nothing else.
    """

    paths: Sequence[Shard]
    read: SampleReader[Streamed]
    batch_size: int
    seed: int
    layout: StreamLayout
    marks: StreamPositions = field(default_factory=dict)

    def __call__(self, *, share: Share) -> Iterator[Window[Streamed]]:
        """A worker's windows, without end."""
        turns: dict[int, _Turn[Streamed]] = {}
        for number in share.numbers():
            turn = number % self.layout.turns
            if turn not in turns:
                turns[turn] = self._turn(turn, share, number // self.layout.turns)
            yield turns[turn].window(number)

    def _turn(self, turn: int, share: Share, over: int) -> "_Turn[Streamed]":
        """The turn's streams that the rank reads, after ``over`` of its windows."""
        mine = share.places(self.batch_size)
        parts = []
        for lane in range(self.layout.lanes):
            places = self.layout.places(lane, self.batch_size)
            if places.start < mine.stop and mine.start < places.stop:
                stream = self._stream(lane * self.layout.turns + turn, over * len(places))
                parts.append(_Part(stream, places))
        return _Turn(parts, mine, over)

    def _stream(self, number: int, taken: int) -> "_Stream[Streamed]":
        """A stream that ``taken`` samples were taken from."""
        first = StreamPosition(shard=number, samples=0)
        mark = self.marks.get(number, first)
        stream = _Stream(
            self.paths,
            self.read,
            self.seed,
            number,
            self.layout.streams,
            mark if mark.samples <= taken else first,
        )
        stream.pass_over(taken)
        return stream


class _Stream(Iterator[StreamItem[Streamed]]):
    """One stream from a mark on."""

    def __init__(
        self,
        paths: Sequence[Shard],
        read: SampleReader[Streamed],
        seed: int,
        number: int,
        streams: int,
        mark: StreamPosition,
    ) -> None:
        self.number, self.mark, self.taken = number, mark, mark.samples
        self._paths, self._read, self._seed, self._streams = paths, read, seed, streams
        self._items = self._shards(mark.shard)

    def __next__(self) -> StreamItem[Streamed]:
        item = next(self._items)
        self.taken += 1
        return item

    def pass_over(self, samples: int) -> None:
        """Go on to where ``samples`` have been taken since its beginning, decoding nothing."""
        for _ in range(samples - self.taken):
            next(self)

    def _shards(self, first: int) -> Iterator[StreamItem[Streamed]]:
        for shard in count(first, self._streams):
            self.mark = StreamPosition(shard=shard, samples=self.taken)
            epoch, place = divmod(shard, len(self._paths))
            contents = self._read(self._paths[_order(self._seed, epoch, len(self._paths))[place]])
            for content in shuffled(
                contents, random_generator(self._seed, epoch, f"buffer {place}")
            ):
                yield StreamItem(epoch, content)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, shards: int) -> list[int]:
    return random_generator(seed, epoch, "shards").permutation(shards).tolist()


@dataclass(frozen=True)
class _Part(Generic[Streamed]):
    """The places of a turn's windows that one stream fills."""

    stream: _Stream[Streamed]
    places: range


class _Turn(Generic[Streamed]):
    """A rank's places of the windows of one turn, ``over`` of which are over."""

    def __init__(self, parts: Sequence[_Part[Streamed]], mine: range, over: int) -> None:
        self._parts, self._mine, self._over = parts, mine, over
        self._items = self._endless()
        self._ahead: deque[StreamItem[Streamed]] = deque()

    def window(self, number: int) -> Window[Streamed]:
        """The next window."""
        ahead = self._ahead
        items = [ahead.popleft() if ahead else next(self._items) for _ in self._mine]
        self._over += 1
        marks = {
            part.stream.number: part.stream.mark
            for part in self._parts
            # A look at spares may have gone further.
            if part.stream.mark.samples <= self._over * len(part.places)
        }
        return Window(number, items, self._spares(), marks)

    def _spares(self) -> Iterator[StreamItem[Streamed]]:
        for index in count():
            if index == len(self._ahead):
                self._ahead.append(next(self._items))
            yield self._ahead[index]

    def _endless(self) -> Iterator[StreamItem[Streamed]]:
        while True:
            for part in self._parts:
                for place in part.places:
                    item = next(part.stream)
                    if place in self._mine:
                        yield item


def shuffled(
    contents: Iterable[Streamed | SkippedSample], rng: np.random.Generator
) -> Iterator[Streamed | SkippedSample]:
    """The same contents in an order that is random within ``BUFFER_BYTES``."""
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


def _bytes(content: Sized | SkippedSample) -> int:
    return SAMPLE_OVERHEAD_BYTES + (0 if isinstance(content, SkippedSample) else content.size)

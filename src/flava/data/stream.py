"""Raw samples in an endless, seeded order, cut into windows: the places of one batch each.

Which samples a window holds depends on the seed and the window's number alone, never on what could
be decoded, nor on the number of ranks and workers. So a run resumes at any window without decoding
the ones before it, on any number of machines. Each rank fills its own part of every window's
places. A place whose sample turns out corrupt is filled with a spare: a look at the samples of the
same places in the windows that follow, which come again in their own turn.

A source that fits in memory is read once, and each epoch is a full permutation of it. A larger one
is streamed (`flava.data.streamed`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from flava.data.errors import Skipped
from flava.data.remote import Shard
from flava.data.seeding import generator

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

Reader = Callable[[Shard], Iterator[Streamed | Skipped]]
"""A shard -> its samples, the same each time; at least one, or a report that there is none."""


@dataclass(frozen=True)
class Item(Generic[Content]):
    """A raw sample, or the report on one that could not be read, in one epoch."""

    epoch: int
    content: Content | Skipped


@dataclass(frozen=True)
class Mark:
    """Where a shard begins in a stream: it is the stream's number ``shard`` in the endless sequence
    of shards, and ``samples`` were taken from the stream before it."""

    shard: int
    samples: int


Marks = Mapping[int, Mark]
"""For some streams of a source, a mark that lies before where they stand."""


@dataclass(frozen=True)
class Window(Generic[Content]):
    """A rank's places of the source's batch number ``number``, and endless spares for corrupt ones.

    ``marks`` are of the streams that it was read from.
    """

    number: int
    items: list[Item[Content]]
    spares: Iterator[Item[Content]]
    marks: Marks = field(default_factory=dict)


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
    paths: Sequence[Shard], read: Reader[Streamed], *, batch_size: int, seed: int, share: Share
) -> Iterator[Window[Streamed]]:
    """A worker's windows, without end, of a source that is read once."""
    contents = [content for path in paths for content in read(path)]
    return memory_windows(contents, batch_size=batch_size, seed=seed, share=share)


def memory_windows(
    contents: Sequence[Content | Skipped], *, batch_size: int, seed: int, share: Share
) -> Iterator[Window[Content]]:
    """A worker's windows, without end, of samples that are at hand."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return generator(seed, epoch, "order").permutation(len(contents)).tolist()

    def item(position: int) -> Item[Content]:
        epoch, index = divmod(position, len(contents))
        return Item(epoch, contents[order(epoch)[index]])

    places = share.places(batch_size)
    for number in share.numbers():
        windows = (
            range(start + places.start, start + places.stop)
            for start in count(number * batch_size, batch_size)
        )
        items = map(item, chain.from_iterable(windows))
        yield Window(number, list(islice(items, len(places))), items)

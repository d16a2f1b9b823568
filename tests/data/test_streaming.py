"""Windows of samples beside brute force: what all ranks and workers together make."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flava.core.randomness import random_generator
from flava.data import streaming
from flava.data.remote import Shard
from flava.data.shards import RawSample
from flava.data.streaming import (
    Share,
    StreamedWindows,
    StreamItem,
    StreamLayout,
    StreamPosition,
    Window,
    fits_in_memory,
    shuffled,
    small_windows,
)
from tests.data.shard_files import write_lines

SAMPLES = 23
SIZES = [5, 7, SAMPLES - 12]


def content(shard: str, key: str) -> RawSample:
    return RawSample(shard=shard, key=key, files={"txt": key.encode()})


@dataclass
class Shards:
    """Shards of these sizes, that note when they are read."""

    sizes: list[int]

    def __post_init__(self) -> None:
        self.reads: Counter[str] = Counter()

    @property
    def paths(self) -> list[Shard]:
        return [Path(str(number)) for number in range(len(self.sizes))]

    def read(self, path: Shard) -> Iterator[RawSample]:
        self.reads[path.name] += 1
        return (content(path.name, f"{path}/{n}") for n in range(self.sizes[int(path.name)]))

    def small(self, *, batch_size: int = 4, seed: int = 0) -> Callable[..., Iterator[Window]]:
        def windows(share: Share) -> Iterator[Window]:
            return small_windows(
                self.paths, self.read, batch_size=batch_size, seed=seed, share=share
            )

        return windows

    def streamed(
        self,
        streams: int,
        *,
        batch_size: int = 4,
        seed: int = 0,
        marks: dict[int, StreamPosition] | None = None,
    ) -> StreamedWindows:
        layout = StreamLayout.of(streams=streams, shards=len(self.sizes), batch_size=batch_size)
        return StreamedWindows(
            paths=self.paths,
            read=self.read,
            batch_size=batch_size,
            seed=seed,
            layout=layout,
            marks=marks or {},
        )


def key(item: StreamItem) -> tuple[int, str]:
    assert isinstance(item.content, RawSample)
    return item.epoch, item.content.key


def keys(window: Window) -> list[tuple[int, str]]:
    return [key(item) for item in window.items]


Made = dict[int, list[tuple[int, str]]]
"""The samples of each window."""


def joined(
    windows: Callable[..., Iterator[Window]],
    numbers: range,
    *,
    world: int = 1,
    workers: int = 1,
    turns: int = 1,
    marks: dict[int, StreamPosition] | None = None,
) -> Made:
    """What all workers of all ranks make, each by itself; their marks are added to ``marks``."""
    made: Made = {number: [] for number in numbers}
    for rank in range(world):
        for worker in range(min(workers, turns)):
            share = Share(
                rank=rank,
                world=world,
                worker=worker,
                workers=min(workers, turns),
                turns=turns,
                start=numbers.start,
            )
            mine = [n for n in numbers if n % turns % share.workers == worker]
            for window in itertools.islice(windows(share=share), len(mine)):
                made[window.number] += keys(window)
                if marks is not None:
                    marks.update(window.marks)
    return made


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 6 * streaming.SAMPLE_OVERHEAD_BYTES)


UNEVEN = st.lists(st.integers(1, 12), min_size=1, max_size=12)
BATCHES = st.sampled_from([(1, 3), (2, 1), (2, 2), (3, 2), (4, 1), (4, 3)])
"""Ranks, and places of each in a batch."""


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), BATCHES, st.integers(1, 9), st.integers(0, 5))
def test_ranks_and_workers_together_make_what_one_process_does(
    sizes, streams, batch, workers, seed
):
    world, each = batch
    for number, windows, turns in (
        (world, Shards(sizes).small(batch_size=world * each, seed=seed), workers),
        (
            world,
            (large := Shards(sizes).streamed(streams, batch_size=world * each, seed=seed)),
            large.layout.turns,
        ),
    ):
        alone = joined(windows, range(12), turns=turns)
        assert all(len(window) == world * each for window in alone.values())
        shared = joined(windows, range(12), world=number, workers=workers, turns=turns)
        assert shared == alone


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), st.integers(1, 6), st.integers(0, 5))
def test_no_sample_comes_twice_in_an_epoch_and_none_is_lost(sizes, streams, batch_size, seed):
    shards = Shards(sizes)
    large = shards.streamed(streams, batch_size=batch_size, seed=seed)
    for windows, turns in (
        (shards.small(batch_size=batch_size, seed=seed), 1),
        (large, large.layout.turns),
    ):
        # So many that each stream has passed the first epoch, even if it holds all samples.
        numbers = range(large.layout.turns * (sum(sizes) + 1))
        seen = Counter(
            each for window in joined(windows, numbers, turns=turns).values() for each in window
        )
        assert set(seen.values()) == {1}
        first = [name for epoch, name in seen if epoch == 0]
        every = [f"{path}/{n}" for path, size in enumerate(sizes) for n in range(size)]
        assert sorted(first) == sorted(every)


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), BATCHES, BATCHES, st.integers(0, 25), st.booleans())
def test_a_run_goes_on_with_any_number_of_ranks(sizes, streams, before, after, start, with_marks):
    batch_size = 12
    shards = Shards(sizes)
    large = shards.streamed(streams, batch_size=batch_size)
    turns = large.layout.turns
    through = joined(large, range(start + 6), turns=turns)
    marks: dict[int, StreamPosition] = {}
    joined(large, range(start), world=before[0], workers=2, turns=turns, marks=marks)
    again = shards.streamed(streams, batch_size=batch_size, marks=marks if with_marks else None)
    resumed = joined(again, range(start, start + 6), world=after[0], workers=3, turns=turns)
    assert resumed == {number: through[number] for number in resumed}
    small = shards.small(batch_size=batch_size)
    through = joined(small, range(start + 6))
    resumed = joined(small, range(start, start + 6), world=after[0], workers=3, turns=3)
    assert resumed == {number: through[number] for number in resumed}


def test_with_marks_no_shard_is_read_that_is_over():
    shards = Shards([3, 9, 4, 4, 1, 6, 2, 5])
    large = shards.streamed(4, batch_size=4)
    marks: dict[int, StreamPosition] = {}
    joined(large, range(100), turns=large.layout.turns, marks=marks)
    epochs = shards.reads.total() / 8
    shards.reads.clear()
    resumed = shards.streamed(4, batch_size=4, marks=marks)
    joined(resumed, range(100, 101), turns=large.layout.turns)
    assert epochs > 10
    assert shards.reads.total() <= large.layout.streams + 2


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (4, 1), (4, 2), (2, 4), (8, 4)])
def test_each_shard_is_read_by_one_worker_where_streams_can_be_shared(world, workers):
    shards = Shards([8] * 64)
    large = shards.streamed(32, batch_size=16)
    assert (large.layout.turns, large.layout.lanes) == (4, 8)
    # A stream has two shards of eight samples, and a window takes two of each.
    joined(large, range(4 * 8), world=world, workers=workers, turns=4)
    assert set(shards.reads.values()) == {1}
    assert len(shards.reads) == 64


@pytest.mark.parametrize("kept", ["memory", "streamed"])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_spares_are_the_samples_that_follow_in_the_ranks_places(kept, rank, world):
    shards = Shards(SIZES)
    share = Share(rank=rank, world=world)

    def every() -> Iterator[Window]:
        return shards.small()(share) if kept == "memory" else shards.streamed(1)(share=share)

    undisturbed = [name for window in itertools.islice(every(), 8) for name in keys(window)]
    disturbed, size = every(), 4 // world
    first = next(disturbed)
    assert keys(first) == undisturbed[:size]
    spares = [key(item) for item in itertools.islice(first.spares, 6)]
    assert spares == undisturbed[size : size + 6]
    # Looking at them took nothing away.
    following = [name for window in itertools.islice(disturbed, 4) for name in keys(window)]
    assert following == undisturbed[size : 5 * size]


def test_ranks_have_no_spare_in_common():
    """Else two places of one batch would be filled with the same sample."""
    shards = Shards(SIZES)
    for windows in (shards.small(), shards.streamed(2)):
        shares = [Share(rank=rank, world=2) for rank in range(2)]
        spares = [
            {key(item) for item in itertools.islice(next(windows(share=share)).spares, 8)}
            for share in shares
        ]
        assert not spares[0] & spares[1]


def test_a_mark_does_not_lie_behind_what_a_look_at_spares_has_passed():
    shards = Shards([2] * 9)
    share = Share()
    windows = shards.streamed(1)(share=share)
    marks: dict[int, StreamPosition] = {}
    for window in itertools.islice(windows, 3):
        list(itertools.islice(window.spares, 7))
        marks |= window.marks
    through = joined(shards.streamed(1), range(6))
    resumed = joined(shards.streamed(1, marks=marks), range(3, 6))
    assert resumed == {number: through[number] for number in resumed}


@pytest.mark.parametrize("kept", ["memory", "streamed"])
def test_the_order_changes_with_epoch_and_seed(kept):
    def samples(seed: int, count: int) -> list[str]:
        shards = Shards(SIZES)
        if kept == "memory":
            windows = shards.small(batch_size=SAMPLES, seed=seed)
        else:
            windows = shards.streamed(1, batch_size=SAMPLES, seed=seed)
        made = joined(windows, range(count)).values()
        return [name for window in made for _, name in window]

    both, other = samples(0, 2), samples(1, 1)
    first, second = both[:SAMPLES], both[SAMPLES:]
    in_order = sorted(first)
    assert sorted(second) == in_order
    assert len({tuple(order) for order in (first, second, other, in_order)}) == 4


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_a_layout_leaves_no_stream_without_a_shard_or_a_place(streams, shards, batch_size):
    layout = StreamLayout.of(streams=streams, shards=shards, batch_size=batch_size)
    assert 1 <= layout.streams <= min(streams, shards)
    places = [layout.places(lane, batch_size) for lane in range(layout.lanes)]
    assert all(places)
    assert [place for run in places for place in run] == list(range(batch_size))


def test_the_shuffle_holds_no_more_than_its_buffer():
    taken = 0

    def contents() -> Iterator[RawSample]:
        nonlocal taken
        for taken in range(1, 1000):
            yield content("a", str(taken))

    drawn = [
        item.key for item in itertools.islice(shuffled(contents(), random_generator(0, 0, "")), 50)
    ]
    assert taken <= 50 + 6
    assert drawn != [str(n) for n in range(1, 51)]


def test_large_files_are_streamed(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", ["a", "b"])
    assert fits_in_memory([path])
    monkeypatch.setattr("flava.data.streaming.IN_MEMORY_BYTES", 2 * path.stat().st_size - 1)
    assert fits_in_memory([path])
    assert not fits_in_memory([path, path])

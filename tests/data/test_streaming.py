"""Batches of samples beside brute force: what all ranks and workers together make."""

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
    RawBatch,
    StreamedBatches,
    StreamItem,
    StreamLayout,
    StreamPosition,
    WorkerShare,
    _shuffled,
    batches_of_small_source,
    fits_in_memory,
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

    def small(self, *, batch_size: int = 4, seed: int = 0) -> Callable[..., Iterator[RawBatch]]:
        def batches(share: WorkerShare) -> Iterator[RawBatch]:
            return batches_of_small_source(
                self.paths, self.read, batch_size=batch_size, seed=seed, share=share
            )

        return batches

    def streamed(
        self,
        streams: int,
        *,
        batch_size: int = 4,
        seed: int = 0,
        positions: dict[int, StreamPosition] | None = None,
    ) -> StreamedBatches:
        layout = StreamLayout.of(streams=streams, shards=len(self.sizes), batch_size=batch_size)
        return StreamedBatches(
            paths=self.paths,
            read=self.read,
            batch_size=batch_size,
            seed=seed,
            layout=layout,
            positions=positions or {},
        )


def key(item: StreamItem) -> tuple[int, str]:
    assert isinstance(item.content, RawSample)
    return item.epoch, item.content.key


def keys(batch: RawBatch) -> list[tuple[int, str]]:
    return [key(item) for item in batch.items]


Made = dict[int, list[tuple[int, str]]]
"""The samples of each batch."""


def joined(
    batches: Callable[..., Iterator[RawBatch]],
    numbers: range,
    *,
    world_size: int = 1,
    workers: int = 1,
    groups: int = 1,
    positions: dict[int, StreamPosition] | None = None,
) -> Made:
    """What all workers of all ranks make; the positions of streams go to ``positions``."""
    made: Made = {number: [] for number in numbers}
    for rank in range(world_size):
        for worker in range(min(workers, groups)):
            share = WorkerShare(
                rank=rank,
                world_size=world_size,
                worker=worker,
                workers=min(workers, groups),
                groups=groups,
                first=numbers.start,
            )
            mine = [n for n in numbers if n % groups % share.workers == worker]
            for batch in itertools.islice(batches(share=share), len(mine)):
                made[batch.number] += keys(batch)
                if positions is not None:
                    positions.update(batch.positions)
    return made


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 6 * streaming.SAMPLE_OVERHEAD_BYTES)


UNEVEN = st.lists(st.integers(1, 12), min_size=1, max_size=12)
BATCHES = st.sampled_from([(1, 3), (2, 1), (2, 2), (3, 2), (4, 1), (4, 3)])
"""Ranks, and slots of each in a batch."""


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), BATCHES, st.integers(1, 9), st.integers(0, 5))
def test_ranks_and_workers_together_make_what_one_process_does(
    sizes, streams, batch, workers, seed
):
    world_size, each = batch
    for number, batches, groups in (
        (world_size, Shards(sizes).small(batch_size=world_size * each, seed=seed), workers),
        (
            world_size,
            (large := Shards(sizes).streamed(streams, batch_size=world_size * each, seed=seed)),
            large.layout.groups,
        ),
    ):
        alone = joined(batches, range(12), groups=groups)
        assert all(len(batch) == world_size * each for batch in alone.values())
        shared = joined(batches, range(12), world_size=number, workers=workers, groups=groups)
        assert shared == alone


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), st.integers(1, 6), st.integers(0, 5))
def test_no_sample_comes_twice_in_an_epoch_and_none_is_lost(sizes, streams, batch_size, seed):
    shards = Shards(sizes)
    large = shards.streamed(streams, batch_size=batch_size, seed=seed)
    for batches, groups in (
        (shards.small(batch_size=batch_size, seed=seed), 1),
        (large, large.layout.groups),
    ):
        # So many that each stream has passed the first epoch, even if it holds all samples.
        numbers = range(large.layout.groups * (sum(sizes) + 1))
        seen = Counter(
            each for batch in joined(batches, numbers, groups=groups).values() for each in batch
        )
        assert set(seen.values()) == {1}
        first = [name for epoch, name in seen if epoch == 0]
        every = [f"{path}/{n}" for path, size in enumerate(sizes) for n in range(size)]
        assert sorted(first) == sorted(every)


@pytest.mark.usefixtures("small_buffers")
@settings(max_examples=15)
@given(UNEVEN, st.integers(1, 20), BATCHES, BATCHES, st.integers(0, 25), st.booleans())
def test_a_run_goes_on_with_any_number_of_ranks(
    sizes, streams, before, after, start, with_positions
):
    batch_size = 12
    shards = Shards(sizes)
    large = shards.streamed(streams, batch_size=batch_size)
    groups = large.layout.groups
    through = joined(large, range(start + 6), groups=groups)
    positions: dict[int, StreamPosition] = {}
    joined(large, range(start), world_size=before[0], workers=2, groups=groups, positions=positions)
    again = shards.streamed(
        streams, batch_size=batch_size, positions=positions if with_positions else None
    )
    resumed = joined(again, range(start, start + 6), world_size=after[0], workers=3, groups=groups)
    assert resumed == {number: through[number] for number in resumed}
    small = shards.small(batch_size=batch_size)
    through = joined(small, range(start + 6))
    resumed = joined(small, range(start, start + 6), world_size=after[0], workers=3, groups=3)
    assert resumed == {number: through[number] for number in resumed}


def test_with_positions_no_shard_is_read_that_is_over():
    shards = Shards([3, 9, 4, 4, 1, 6, 2, 5])
    large = shards.streamed(4, batch_size=4)
    positions: dict[int, StreamPosition] = {}
    joined(large, range(100), groups=large.layout.groups, positions=positions)
    epochs = shards.reads.total() / 8
    shards.reads.clear()
    resumed = shards.streamed(4, batch_size=4, positions=positions)
    joined(resumed, range(100, 101), groups=large.layout.groups)
    assert epochs > 10
    assert shards.reads.total() <= large.layout.streams + 2


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (4, 1), (4, 2), (2, 4), (8, 4)])
def test_each_shard_is_read_by_one_worker_where_streams_can_be_shared(world_size, workers):
    shards = Shards([8] * 64)
    large = shards.streamed(32, batch_size=16)
    assert (large.layout.groups, large.layout.streams_per_group) == (4, 8)
    # A stream has two shards of eight samples, and a batch takes two of each.
    joined(large, range(4 * 8), world_size=world_size, workers=workers, groups=4)
    assert set(shards.reads.values()) == {1}
    assert len(shards.reads) == 64


@pytest.mark.parametrize("kept", ["memory", "streamed"])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_spares_are_the_samples_that_follow_in_the_ranks_slots(kept, rank, world_size):
    shards = Shards(SIZES)
    share = WorkerShare(rank=rank, world_size=world_size)

    def every() -> Iterator[RawBatch]:
        return shards.small()(share) if kept == "memory" else shards.streamed(1)(share=share)

    undisturbed = [name for batch in itertools.islice(every(), 8) for name in keys(batch)]
    disturbed, size = every(), 4 // world_size
    first = next(disturbed)
    assert keys(first) == undisturbed[:size]
    spares = [key(item) for item in itertools.islice(first.spares, 6)]
    assert spares == undisturbed[size : size + 6]
    # Looking at them took nothing away.
    following = [name for batch in itertools.islice(disturbed, 4) for name in keys(batch)]
    assert following == undisturbed[size : 5 * size]


def test_ranks_have_no_spare_in_common():
    """Else two slots of one batch would be filled with the same sample."""
    shards = Shards(SIZES)
    for batches in (shards.small(), shards.streamed(2)):
        shares = [WorkerShare(rank=rank, world_size=2) for rank in range(2)]
        spares = [
            {key(item) for item in itertools.islice(next(batches(share=share)).spares, 8)}
            for share in shares
        ]
        assert not spares[0] & spares[1]


def test_a_position_does_not_lie_behind_what_a_look_at_spares_has_passed():
    shards = Shards([2] * 9)
    share = WorkerShare()
    batches = shards.streamed(1)(share=share)
    positions: dict[int, StreamPosition] = {}
    for batch in itertools.islice(batches, 3):
        list(itertools.islice(batch.spares, 7))
        positions |= batch.positions
    through = joined(shards.streamed(1), range(6))
    resumed = joined(shards.streamed(1, positions=positions), range(3, 6))
    assert resumed == {number: through[number] for number in resumed}


@pytest.mark.parametrize("kept", ["memory", "streamed"])
def test_the_order_changes_with_epoch_and_seed(kept):
    def samples(seed: int, count: int) -> list[str]:
        shards = Shards(SIZES)
        if kept == "memory":
            batches = shards.small(batch_size=SAMPLES, seed=seed)
        else:
            batches = shards.streamed(1, batch_size=SAMPLES, seed=seed)
        made = joined(batches, range(count)).values()
        return [name for batch in made for _, name in batch]

    both, other = samples(0, 2), samples(1, 1)
    first, second = both[:SAMPLES], both[SAMPLES:]
    in_order = sorted(first)
    assert sorted(second) == in_order
    assert len({tuple(order) for order in (first, second, other, in_order)}) == 4


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_a_layout_leaves_no_stream_without_a_shard_or_a_slot(streams, shards, batch_size):
    layout = StreamLayout.of(streams=streams, shards=shards, batch_size=batch_size)
    assert 1 <= layout.streams <= min(streams, shards)
    slots = [layout.slots(index, batch_size) for index in range(layout.streams_per_group)]
    assert all(slots)
    assert [slot for run in slots for slot in run] == list(range(batch_size))


def test_the_shuffle_holds_no_more_than_its_buffer():
    taken = 0

    def contents() -> Iterator[RawSample]:
        nonlocal taken
        for taken in range(1, 1000):
            yield content("a", str(taken))

    drawn = [
        item.key for item in itertools.islice(_shuffled(contents(), random_generator(0, 0, "")), 50)
    ]
    assert taken <= 50 + 6
    assert drawn != [str(n) for n in range(1, 51)]


def test_large_files_are_streamed(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", ["a", "b"])
    assert fits_in_memory([path])
    monkeypatch.setattr("flava.data.streaming.IN_MEMORY_BYTES", 2 * path.stat().st_size - 1)
    assert fits_in_memory([path])
    assert not fits_in_memory([path, path])

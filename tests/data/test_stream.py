import itertools
from collections import Counter

import pytest

from flava.data import stream
from flava.data.shards import Raw, read_shard
from flava.data.stream import Share, Window, windows
from tests.data.shard_files import write_lines

SAMPLES = 23


@pytest.fixture(params=["memory", "streamed"])
def kept(request, monkeypatch):
    """Both ways of reading a source."""
    if request.param == "streamed":
        monkeypatch.setattr(stream, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(stream, "BUFFER_BYTES", 6 * stream.SAMPLE_OVERHEAD_BYTES)
    return request.param


@pytest.fixture
def paths(tmp_path):
    """Three shards of different lengths."""
    bounds = [0, 5, 12, SAMPLES]
    return [
        write_lines(tmp_path / f"{i}.jsonl", [str(n) for n in range(*ends)])
        for i, ends in enumerate(itertools.pairwise(bounds))
    ]


def key(item: stream.Item) -> str:
    assert isinstance(item.content, Raw)
    return item.content.key


def keys(window: Window) -> list[str]:
    return [key(item) for item in window.items]


def read(paths, count, *, streams=1, worker=0, start=0, batch_size=4, seed=0) -> list[Window]:
    share = Share(stream=worker, streams=streams, start=start)
    every = windows(paths, read_shard, batch_size=batch_size, seed=seed, share=share)
    return list(itertools.islice(every, count))


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("streams", [1, 2, 3, 5])
def test_each_epoch_holds_each_sample_once(paths, streams):
    seen = Counter()
    for worker in range(streams):
        items = [i for w in read(paths, 60, streams=streams, worker=worker) for i in w.items]
        seen.update((item.epoch, key(item)) for item in items)
        assert [item.epoch for item in items] == sorted(item.epoch for item in items)
    for epoch in range(2):
        assert sorted(n for (e, _), n in seen.items() if e == epoch) == [1] * SAMPLES


def test_windows_in_memory_do_not_depend_on_the_number_of_workers(paths):
    alone = read(paths, 12)
    for streams in (2, 3):
        shared = [w for s in range(streams) for w in read(paths, 4, streams=streams, worker=s)]
        for window in shared:
            assert keys(window) == keys(alone[window.number])
    assert [window.number for window in alone] == list(range(12))


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("streams", [1, 2, 5])
@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_resumed_stream_goes_on_where_it_was(paths, streams, start):
    for worker in range(streams):
        through = {w.number: keys(w) for w in read(paths, 20, streams=streams, worker=worker)}
        resumed = read(paths, 5, streams=streams, worker=worker, start=start)
        assert resumed[0].number == min(number for number in through if number >= start)
        for window in resumed:
            assert keys(window) == through[window.number]


@pytest.mark.usefixtures("kept")
def test_spares_are_the_samples_that_follow(paths):
    every = windows(
        paths, read_shard, batch_size=4, seed=0, share=Share(stream=0, streams=1, start=0)
    )
    undisturbed = [name for window in read(paths, 4) for name in keys(window)]
    first = next(every)
    spares = [key(item) for item in itertools.islice(first.spares, 6)]
    assert spares == undisturbed[4:10]
    # Looking at them took nothing away.
    assert keys(next(every)) + keys(next(every)) == undisturbed[4:12]


@pytest.mark.usefixtures("kept")
def test_the_order_changes_with_epoch_and_seed(paths):
    two_epochs = [name for w in read(paths, 2, batch_size=SAMPLES) for name in keys(w)]
    first, second = two_epochs[:SAMPLES], two_epochs[SAMPLES:]
    (other,) = read(paths, 1, batch_size=SAMPLES, seed=1)
    in_order = sorted(first)
    assert sorted(second) == in_order
    assert len({tuple(order) for order in (first, second, keys(other), in_order)}) == 4


def test_a_worker_without_a_sample_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "IN_MEMORY_BYTES", 0)
    path = write_lines(tmp_path / "a.jsonl", ["a", "b"])
    with pytest.raises(ValueError, match=r"worker 2 of 3 finds no sample in .*use fewer workers"):
        read([path], 1, streams=3, worker=2)

"""How well batches are mixed at the paper's scale: its numbers of samples, with nothing in them."""

import errno
import itertools
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flava.data import workers
from flava.data.remote import Shard
from flava.data.shards import read_shard
from flava.data.streaming import StreamedBatches, StreamLayout, WorkerShare
from flava.prepare.shard_files import Permutation
from flava.prepare.sources import SOURCES
from flava.recipes import RECIPES

IMAGES, CLASSES = 1_281_167, 1_000
"""Of ImageNet-1k's training images."""
PER_IMAGE = {"coco": 5, "localized-narratives": 2, "visual-genome": 50}
"""Pairs that share an image, beside each other in the source (COCO: 616,767 captions of 123,287
images; sentences of narratives; regions of photographs)."""
WINDOWS = 6


@dataclass(frozen=True, slots=True)
class Empty:
    """A sample without content, which says that it takes so many bytes."""

    shard: str
    key: str
    size: int


def windows(
    read: Callable[[Shard], Iterator[Empty]], shards: int, batch_size: int, streams: int
) -> list[np.ndarray]:
    """The numbers of the samples in some windows, as the loader draws them."""
    layout = StreamLayout.of(streams=streams, shards=shards, batch_size=batch_size)
    made = StreamedBatches(
        paths=[Path(str(number)) for number in range(shards)],
        read=read,
        batch_size=batch_size,
        seed=0,
        layout=layout,
    )
    taken = itertools.islice(made(share=WorkerShare(groups=layout.groups)), WINDOWS)
    return [np.array([int(item.content.key) for item in window.items]) for window in taken]


def shards_of(size: int, rows: int, name: str, sample_bytes: int) -> tuple[int, Callable]:
    """What `flava data build` makes of so many samples: the number of shards, and their reader.

    Each sample's key is its place in the source.
    """
    count = -(-size // rows)
    order = Permutation(size, name)

    def read(path: Shard) -> Iterator[Empty]:
        first, end = (size * number // count for number in (int(path.name), int(path.name) + 1))
        for place in order(np.arange(first, end)).tolist():
            yield Empty(path.name, str(place), sample_bytes)

    return count, read


@pytest.mark.parametrize("recipe", ["image-dino", "image-beit", "flava"])
def test_a_batch_of_imagenet_holds_as_many_classes_as_one_drawn_uniformly(recipe: str) -> None:
    """Of shards in the order of the folders, batches of `image-dino` held 8 to 11 of 1,000."""
    run = RECIPES[recipe]()
    assert run.data.images is not None
    size = run.data.images.batch_size
    rows = SOURCES["imagenet-1k"].rows_per_shard
    count, read = shards_of(IMAGES, rows, "imagenet-1k", 110_000)
    found = windows(read, count, size, run.data.streams)
    classes = [len(np.unique(window * CLASSES // IMAGES)) for window in found]
    expected = CLASSES * (1 - (1 - 1 / CLASSES) ** size)
    assert np.mean(classes) == pytest.approx(expected, rel=0.03)
    assert min(classes) > 0.93 * expected


def test_pairs_of_a_batch_share_an_image_hardly_more_often_than_drawn_uniformly() -> None:
    """PMD's 70 M pairs; of shards in the sources' order 9 % of a batch shared theirs."""
    run = RECIPES["flava"]()
    assert run.data.pairs is not None
    readers, images, first = [], [], 0
    for name, source in SOURCES.items():
        if source.pairs is None:
            continue
        pairs = round(source.pairs * 1e6)
        count, read = shards_of(pairs, source.rows_per_shard, name, 25_000)
        readers += [(read, number, first) for number in range(count)]
        images.append(first + np.arange(pairs, dtype=np.int64) // PER_IMAGE.get(name, 1))
        first += pairs
    image_of = np.concatenate(images)
    assert len(image_of) == pytest.approx(70e6, rel=0.01)

    def read(path: Shard) -> Iterator[Empty]:
        reader, number, start = readers[int(path.name)]
        for sample in reader(Path(str(number))):
            yield Empty(path.name, str(start + int(sample.key)), sample.size)

    size = run.data.pairs.batch_size
    found = windows(read, len(readers), size, run.data.streams)
    rng = np.random.default_rng(0)
    uniform = [rng.choice(len(image_of), size, replace=False) for _ in range(4 * WINDOWS)]
    drawn, expected = (np.mean([shared(image_of[w]) for w in each]) for each in (found, uniform))
    assert 0 < drawn < 2 * expected
    assert expected < 1e-3


def shared(images: np.ndarray) -> float:
    """The share of pairs whose image another pair has as well."""
    _, counts = np.unique(images, return_counts=True)
    return counts[counts > 1].sum() / len(images)


def test_many_shards_may_be_open_at_once(tmp_path: Path) -> None:
    """And where none may, it is not taken for a fault of the shard."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = tmp_path / "a.txt"
    path.write_text("text")
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        assert workers._allow_open_files() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        with pytest.raises(OSError, match=r"no more files can be opened.*--data\.streams") as error:
            fill_and_read(path, held)
        assert error.value.__cause__.errno == errno.EMFILE  # pyright: ignore
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def fill_and_read(path: Path, held: list) -> None:
    try:
        while True:
            held.append(path.open("rb"))
    except OSError:
        list(read_shard(path))

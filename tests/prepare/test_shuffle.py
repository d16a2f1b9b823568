"""The random order of a build's samples: as numbers, and in the shards of the command."""

import itertools
import json
import subprocess
import sys
import tarfile
import tracemalloc
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flava.data import streaming
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader
from flava.data.manifest import read_manifest
from flava.data.transforms import ImageTransformConfig
from flava.prepare.shard_files import Permutation
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded
from tests.prepare.made import contents, photo, write_coco, write_pairs

PRIMES = [2, 3, 5, 7, 31, 127, 1009, 8191, 65537]
POWERS = [2**power for power in range(17)]
NEXT = [size + step for size in POWERS[2:] for step in (-1, 1)]


def order(size: int, name: str = "coco") -> np.ndarray:
    return Permutation(size, name)(np.arange(size))


# As numbers


@pytest.mark.parametrize("size", sorted({1, 6, 10_000, *PRIMES, *POWERS, *NEXT}))
def test_every_sample_has_one_place(size: int) -> None:
    assert np.array_equal(np.sort(order(size)), np.arange(size))


@given(st.integers(1, 5000), st.text(max_size=5))
def test_every_sample_has_one_place_under_any_name(size: int, name: str) -> None:
    assert np.array_equal(np.sort(order(size, name)), np.arange(size))


@given(st.integers(1, 2**40), st.data())
def test_a_place_is_computed_by_itself(size: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size - 1))
    places = np.arange(first, min(size, first + 20))
    permutation = Permutation(size, "sbu")
    found = permutation(places)
    assert found.min() >= 0
    assert found.max() < size
    assert len(set(found.tolist())) == len(places)
    assert [int(permutation(places[i : i + 1])[0]) for i in range(len(places))] == found.tolist()


@pytest.mark.parametrize("size", [99_991, 2**17, 100_000])
def test_nothing_of_the_old_order_is_left(size: int) -> None:
    """Bounds of five standard errors of what chance gives."""
    found = order(size)
    bound = 5 / np.sqrt(size)
    places = np.arange(size)
    assert abs(np.corrcoef(places, found)[0, 1]) < bound
    for step in (1, 2, 3, 64):
        assert abs(np.corrcoef(found[:-step], found[step:])[0, 1]) < bound
    # Two random places are a third of all apart; two neighbours stay such, one sample its place.
    apart = np.abs(np.diff(found))
    assert abs(apart.mean() / size - 1 / 3) < 5 * np.sqrt(1 / 18 / size)
    assert np.count_nonzero(apart == 1) < 15
    assert np.count_nonzero(found == places) < 10
    # A shard of a hundredth holds samples of every hundredth of the source alike.
    table = np.histogram2d(places, found, bins=100)[0]
    expected = size / 100**2
    chi = ((table - expected) ** 2 / expected).sum()
    assert abs(chi - 99**2) < 5 * np.sqrt(2 * 99**2)
    # So do the lowest bits, by which regular patterns would be told.
    for low in (2, 16):
        pairs = np.bincount(found[:-1] % low * low + found[1:] % low, minlength=low**2)
        chi = ((pairs - size / low**2) ** 2 / (size / low**2)).sum()
        assert chi < low**2 - 1 + 5 * np.sqrt(2 * low**2)


def test_every_order_of_few_is_as_likely_as_any() -> None:
    """Of four samples, over many names."""
    seen = Counter(tuple(order(4, f"name {n}").tolist()) for n in range(2400))
    assert len(seen) == 24
    chi = sum((count - 100) ** 2 / 100 for count in seen.values())
    assert chi < 23 + 5 * np.sqrt(2 * 23)


def test_names_have_orders_of_their_own() -> None:
    """Two random orders agree at one place, on average."""
    orders = [order(10_000, name) for name in ("coco", "sbu", "cc3m")]
    for one, other in itertools.combinations(orders, 2):
        assert np.count_nonzero(one == other) < 10


def test_the_order_is_the_same_in_every_process_and_release() -> None:
    """Where Python's own hashes differ; the numbers are those of today."""
    code = (
        "import numpy as np; from flava.prepare.shard_files import Permutation as P;"
        "print(P(1000, 'coco')(np.arange(5)).tolist())"
    )
    said = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )
        said.add(done.stdout.strip())
    assert said == {str(order(1000)[:5].tolist())}
    assert said == {"[814, 278, 544, 784, 989]"}


def test_seventy_million_take_no_memory() -> None:
    """A shard's places are computed in a few copies of themselves."""
    permutation = Permutation(70_000_000, "pmd")
    tracemalloc.start()
    found = permutation(np.arange(35_000_000, 35_010_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(found.tolist())) == 10_000
    assert peak < 2_000_000


# In the shards


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def told(path: Path) -> list[tuple[str, dict[str, Any], bytes]]:
    """Key, fields and image of each sample of a tar, in its order."""
    found = []
    with tarfile.open(path) as tar:
        files = [(each.name, tar.extractfile(each)) for each in tar.getmembers()]
        parts = [(name, opened.read()) for name, opened in files if opened is not None]
    for (image, data), (fields, text) in zip(parts[::2], parts[1::2], strict=True):
        key = image.split(".")[0]
        assert fields == f"{key}.json"
        found.append((key, json.loads(text), data))
    return found


CLASSES, EACH = 12, 50


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Twelve classes of fifty images each, of which no two are the same."""
    for number in range(CLASSES * EACH):
        folder = tmp_path / "train" / f"n{number // EACH:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        levels = [number // 256, number % 256, 0]
        image = Image.fromarray(np.full((20, 24, 3), levels, np.uint8))
        (folder / f"{folder.name}_{number}.JPEG").write_bytes(encoded(image, "PNG"))
    return tmp_path / "train"


def test_a_shard_of_imagenet_is_not_one_class_after_another(
    flava: Command, imagenet: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shards"
    arguments = ["imagenet-1k", "--annotations", imagenet, "--rows-per-shard", 100]
    ended = flava("data", "build", *arguments, "--output", output, "--processes", 1)
    assert ended.status == 0, ended.error
    shards = [told(path) for path in sorted(output.glob("*.tar"))]
    assert [len(shard) for shard in shards] == [100] * 6
    # Nothing is lost or doubled.
    written = Counter(data for shard in shards for _, _, data in shard)
    assert written == Counter(path.read_bytes() for path in imagenet.rglob("*.JPEG"))
    assert len({key for shard in shards for key, _, _ in shard}) == CLASSES * EACH
    # A class is missing in a hundred draws once in six thousand times.
    classes = [[fields["class"] for _, fields, _ in shard] for shard in shards]
    assert all(len(set(shard)) >= CLASSES - 1 for shard in classes)
    alike = sum(one == other for shard in classes for one, other in pairwise(shard))
    neighbours = 6 * 99
    chance = (EACH - 1) / (CLASSES * EACH - 1)
    assert alike < neighbours * chance + 5 * np.sqrt(neighbours * chance)
    manifest = read_manifest(output)
    assert (manifest["order"], manifest["seed"]) == ("shuffled", 0)
    assert flava("data", "check", output, "--processes", 1).status == 0


def test_a_batch_of_a_single_stream_holds_nearly_all_classes(
    flava: Command, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As training reads what is too large for memory, with a buffer that holds next to nothing."""
    output = tmp_path / "shards"
    arguments = ["imagenet-1k", "--annotations", imagenet, "--rows-per-shard", 100]
    arguments += ["--output", output, "--processes", 1]
    assert flava("data", "build", *arguments).status == 0
    classes = {
        key: fields["class"] for path in output.glob("*.tar") for key, fields, _ in told(path)
    }
    monkeypatch.setattr(streaming, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(streaming, "BUFFER_BYTES", streaming.SAMPLE_OVERHEAD_BYTES)
    source = SourceConfig(shards=(str(output / "*.tar"),), weight=1.0, batch_size=50)
    small = ImageTransformConfig(image_size=16, codebook_size=16)
    seen = Counter[str]()
    with Loader(DataConfig(images=source, streams=1, workers=0, image=small), seed=0) as loader:
        for _ in range(12):
            keys = next(loader).keys
            seen.update(keys)
            assert len({classes[key] for key in keys}) >= CLASSES - 1
    assert seen == Counter(classes.keys())


def test_the_captions_of_an_image_do_not_stay_together(flava: Command, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(20)]
    images = {name: encoded(photo(number)) for number, name in enumerate(names)}
    pairs = [(name, f"{name} for the {n}. time") for name in names for n in range(5)]
    config = write_coco(tmp_path, images, pairs)
    arguments = ["coco", "--annotations", config.annotations[0], "--images", config.images]
    arguments += ["--output", config.output, "--rows-per-shard", 20, "--processes", 1]
    assert flava("data", "build", *arguments).status == 0
    shards = [told(path) for path in sorted(config.output.glob("*.tar"))]
    said = [[fields["caption"] for _, fields, _ in shard] for shard in shards]
    assert [len(shard) for shard in said] == [20] * 5
    assert Counter(chain.from_iterable(said)) == Counter(caption for _, caption in pairs)
    places = {name: [] for name in names}
    for number, shard in enumerate(said):
        for caption in shard:
            places[caption.split()[0]].append(number)
    # Five of one image are in 3.4 of five shards on average, and all in one never.
    assert min(len(set(found)) for found in places.values()) > 1
    assert sum(len(set(found)) for found in places.values()) / len(names) > 3
    neighbours = [
        (one.split()[0], other.split()[0]) for shard in said for one, other in pairwise(shard)
    ]
    assert sum(one == other for one, other in neighbours) < 95 * 4 / 99 + 5 * np.sqrt(95 * 4 / 99)


@pytest.mark.parametrize("kind", ["pairs", "texts"])
def test_the_bytes_are_the_same_for_any_number_of_processes(
    kind: str, flava: Command, tmp_path: Path
) -> None:
    if kind == "pairs":
        config = write_pairs(tmp_path, 60)
        given = ["cc12m", "--annotations", config.annotations[0], "--images", config.images]
    else:
        lines = [json.dumps({"text": f"Document {n}. It ends."}) for n in range(60)]
        news = tmp_path / "news.jsonl"
        news.write_text("\n".join(lines))
        given = ["ccnews", "--annotations", news]
    built = []
    for name, processes in (("one", 1), ("again", 1), ("two", 2)):
        arguments = [*given, "--output", tmp_path / name, "--rows-per-shard", 7]
        ended = flava("data", "build", *arguments, "--processes", processes)
        assert ended.status == 0, ended.error
        built.append(contents(tmp_path / name))
    assert built[0] == built[1] == built[2]
    assert len(built[0]) == 10
    if kind == "texts":
        shards = [data for name, data in built[0].items() if name.endswith(".jsonl")]
        found = [json.loads(line)["text"] for data in shards for line in data.splitlines()]
        expected = [f"Document {n}. It ends." for n in range(60)]
        assert sorted(found) == sorted(expected)
        assert found != expected
        follow = sum(found.index(a) + 1 == found.index(b) for a, b in pairwise(expected))
        assert follow < 1 + 5  # one on average


def test_codes_are_written_in_the_order_that_is_read(flava: Command, tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 20)
    arguments = ["cc12m", "--annotations", config.annotations[0], "--images", config.images]
    arguments += ["--output", config.output, "--rows-per-shard", 10, "--processes", 1]
    assert flava("data", "build", *arguments).status == 0
    coded = tmp_path / "coded"
    given = [config.output / "*.tar", "--codebook", "shipped:codebook-tiny", "--output", coded]
    ended = flava("data", "tokenize", *given, "--codebook-size", 40)
    assert ended.status == 0, ended.error
    for path in sorted(config.output.glob("*.tar")):
        with tarfile.open(path) as ours, tarfile.open(coded / path.name) as theirs:
            names = theirs.getnames()
            assert [name for name in names if "codes" not in name] == ours.getnames()
            assert len(names) == 30
            assert ours.getnames() != sorted(ours.getnames())

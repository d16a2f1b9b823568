"""ImageNet-1k, which the protocols that train on it take whole and at its own sizes."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flava.data.manifest import read_manifest
from flava.prepare.build_manifest import EVALUATION, EXACT, NEAR
from tests.commands import Command, Ended, in_this_process
from tests.data.shard_files import encoded, picture
from tests.prepare.made import opened, photo

FIRST, SECOND = "n01440764", "n02119789"


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def built(flava: Command, output: Path, *arguments: object) -> Ended:
    given = ["imagenet-1k", "--annotations", *arguments, "--output", output, "--processes", 1]
    return flava("data", "build", *given)


def written(output: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Fields and image file of every sample, as tarfile finds them."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            for each in tar.getmembers():
                key, _, suffix = each.name.partition(".")
                content = tar.extractfile(each)
                assert content is not None
                found.setdefault(key, {})[suffix] = content.read()
    parts = [found[key] for key in sorted(found)]
    return [(json.loads(part.pop("json")), part.popitem()[1]) for part in parts]


def images() -> dict[str, bytes]:
    """Files as ImageNet has them: large ones, a PNG with another name, one in CMYK, duplicates."""
    stream = io.BytesIO()
    photo(3).convert("CMYK").save(stream, "JPEG")
    return {
        f"{FIRST}/a.JPEG": encoded(photo(1).resize((600, 500)), "JPEG"),
        f"{FIRST}/b.JPEG": encoded(photo(2).resize((500, 400)), "PNG"),
        f"{FIRST}/c.JPEG": stream.getvalue(),
        f"{SECOND}/d.JPEG": encoded(photo(1).resize((600, 500)), "JPEG"),  # in two classes
        f"{SECOND}/e.JPEG": encoded(photo(1).resize((300, 250)), "JPEG"),
        f"{SECOND}/f.JPEG": encoded(picture(4, 12, 9), "JPEG"),
    }


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """torchvision's folder of the validation images."""
    for name, data in images().items():
        path = tmp_path / "imagenet" / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "imagenet" / "val"


def test_every_file_is_there_as_it_was(flava: Command, split: Path, tmp_path: Path) -> None:
    output = tmp_path / "data" / "imagenet-1k-val"
    ended = built(flava, output, split)
    assert ended.status == 0, ended.error
    assert "6 of 6 rows kept in 1 shards" in ended.out
    expected = images()
    found = written(output)
    assert [data for _, data in found] == list(expected.values())
    assert [fields["class"] for fields, _ in found] == [FIRST] * 3 + [SECOND] * 3
    for fields, data in found:
        assert (fields["width"], fields["height"]) == opened(data).size
    manifest = read_manifest(output)
    assert (manifest["kept"], manifest["left_out"]) == (6, {})
    assert manifest["config"]["cleaning"]["short_side"] is None
    assert flava("data", "check", output, "--processes", 1).status == 0
    assert flava("data", "stats", output, "--processes", 1).status == 0


def test_a_user_can_have_them_small_and_without_duplicates(
    flava: Command, split: Path, tmp_path: Path
) -> None:
    asked = ["--cleaning.short-side", 256, "--cleaning.drop-duplicates", "True"]
    ended = built(flava, tmp_path / "small", split, *asked, "--cleaning.min-side", 16)
    assert ended.status == 0, ended.error
    found = written(tmp_path / "small")
    assert [min(opened(data).size) for _, data in found] == [256, 256, 100]
    left_out = read_manifest(tmp_path / "small")["left_out"]
    assert left_out == {EXACT: 1, NEAR: 1, "image is tiny": 1}


def test_only_what_is_near_to_an_evaluation_set_goes(
    flava: Command, split: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    (held_out / "x.jpg").write_bytes(encoded(photo(2).resize((250, 200)), "JPEG"))
    ended = built(flava, tmp_path / "shards", split, "--against", held_out)
    assert ended.status == 0, ended.error
    expected = [data for name, data in images().items() if not name.endswith("b.JPEG")]
    assert [data for _, data in written(tmp_path / "shards")] == expected
    assert read_manifest(tmp_path / "shards")["left_out"] == {EVALUATION: 1}


def test_a_format_that_is_not_kept_keeps_its_size(flava: Command, tmp_path: Path) -> None:
    folder = tmp_path / "train" / FIRST
    folder.mkdir(parents=True)
    (folder / "a.gif").write_bytes(encoded(photo(1).resize((400, 300)), "GIF"))
    assert built(flava, tmp_path / "shards", tmp_path / "train").status == 0
    ((fields, data),) = written(tmp_path / "shards")
    assert (opened(data).format, opened(data).size) == ("JPEG", (400, 300))
    assert (fields["width"], fields["height"]) == (400, 300)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """The folder of all splits' Parquet, as the package datasets writes them."""
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    files = list(images().values())
    for name, labels in (("train", [7, 8]), ("validation", [1, 2, 3]), ("test", [-1])):
        rows = [{"bytes": data, "path": "x.JPEG"} for data in files[: len(labels)]]
        table = pa.table({"image": rows, "label": labels})
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    return folder


def test_parquet_of_one_split_keeps_its_labels(
    flava: Command, tables: Path, tmp_path: Path
) -> None:
    ended = built(flava, tmp_path / "shards", *tables.glob("validation-*.parquet"))
    assert ended.status == 0, ended.error
    found = written(tmp_path / "shards")
    assert [fields["label"] for fields, _ in found] == [1, 2, 3]
    assert [data for _, data in found] == list(images().values())[:3]


def test_a_folder_of_several_splits_is_refused(
    flava: Command, tables: Path, split: Path, tmp_path: Path
) -> None:
    """Else the images to evaluate on would be trained on."""
    ended = built(flava, tmp_path / "one", tables)
    assert ended.status == 1
    assert "holds train and validation and test: give the folder of one of them" in ended.error
    (split.parent / "train").mkdir()
    ended = built(flava, tmp_path / "two", split.parent)
    assert ended.status == 1
    assert "holds train and val: give the folder of one of them" in ended.error


def test_other_images_are_made_small_and_each_is_there_once(
    flava: Command, split: Path, tmp_path: Path
) -> None:
    arguments = ["images", "--annotations", split, "--output", tmp_path / "own", "--processes", 1]
    assert flava("data", "build", *arguments).status == 0
    found = written(tmp_path / "own")
    assert [min(opened(data).size) for _, data in found] == [256, 256, 100]
    left_out = read_manifest(tmp_path / "own")["left_out"]
    assert left_out == {EXACT: 1, NEAR: 1, "image is tiny": 1}


def test_the_help_and_the_list_of_sources_tell_it(flava: Command) -> None:
    said = flava("data", "build", "--help").out
    assert "By default 256; images of ImageNet-1k keep their size" in said
    assert "By default they are, except in ImageNet-1k, which is kept" in said
    listed = flava("data", "sources").out
    assert "torchvision's folder train/ or val/, or datasets' Parquet of one split" in listed
    assert "All images, in their own files and sizes" in listed


def test_a_least_side_above_the_most_is_refused(
    flava: Command, split: Path, tmp_path: Path
) -> None:
    asked = ["--cleaning.min-side", 20, "--cleaning.short-side", 10]
    ended = built(flava, tmp_path / "shards", split, *asked)
    assert ended.status == 1
    assert "--cleaning.min-side is 20: use 1 to 10 (short-side)" in ended.error

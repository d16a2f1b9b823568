"""What one command reads, all commands read: endings of images, and names of columns."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flava.data.decoding import FORMATS, IMAGE_SUFFIXES
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, picture, write_tar
from tests.finetuning.labelled_files import write_model
from tests.tiny_runs import CODEBOOK_ARGUMENTS

OTHERS = {"gif": "GIF", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF", "ppm": "PPM"}
"""Endings that some commands passed over, and their formats."""
NAMES = [f"{number}.{suffix}" for number, suffix in enumerate([*OTHERS, *OTHERS])]
CLASSES = ("even", "odd")


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in a folder for each of two classes, and a table of each kind of columns."""
    folder = tmp_path_factory.mktemp("images")
    for number, name in enumerate(NAMES):
        path = folder / "classes" / label(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image_format = OTHERS[name.rpartition(".")[2]]
        path.write_bytes(encoded(picture(number, 40, 32), image_format))
    return folder


def label(number: int) -> str:
    return CLASSES[number % 2]


def write_pairs(folder: Path, *columns: str) -> Path:
    """A table of the images with captions and labels, under these names; beside the folder."""
    rows = [
        (f"classes/{label(n)}/{name}", f"picture {n}", label(n)) for n, name in enumerate(NAMES)
    ]
    path = folder / f"{'-'.join(columns)}.csv"
    pd.DataFrame(rows, columns=pd.Index(columns)).to_csv(path, index=False)
    return path


def test_every_format_has_an_ending() -> None:
    from PIL import Image

    Image.init()
    formats = {Image.registered_extensions()[suffix] for suffix in IMAGE_SUFFIXES}
    assert formats == set(FORMATS)


def test_probe_and_finetune_read_all_images_of_a_folder(
    flava: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    given = [f"--model={model}", f"--data={images / 'classes'}", "--validation-fraction=0.2"]
    ended = flava("probe", *given, f"--output-dir={tmp_path / 'probe'}")
    assert ended.status == 0, ended.error
    assert "n = 2)" in ended.out
    more = ("--precision=fp32", "--workers=0", "--epochs=1", "--batch-size=4")
    ended = flava("finetune", *given, *more, f"--output-dir={tmp_path / 'finetune'}")
    assert ended.status == 0, ended.error
    output = tmp_path / "out.jsonl"
    folder = images / "classes"
    ended = flava(
        "predict", f"--model={tmp_path / 'finetune'}", f"--data={folder}", f"--output={output}"
    )
    assert ended.status == 0, ended.error
    assert len(output.read_text().splitlines()) == len(NAMES)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_training_reads_them(flava: Command, images: Path, tmp_path: Path, kind: str) -> None:
    shard = images / "classes"
    if kind == "tar":
        files = {path.name: path.read_bytes() for path in sorted(shard.rglob("*.*"))}
        shard = write_tar(tmp_path / "images.tar", files)
    named = [f"--output-dir={tmp_path / 'run'}", f"--data.images.shards={shard}"]
    ended = flava("train", "codebook-tiny", "--max-steps=3", *named, *CODEBOOK_ARGUMENTS)
    assert ended.status == 0, ended.error
    assert "skipped" not in ended.error


def test_embedding_and_building_read_them(
    flava: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    folder = images / "classes"
    ended = flava("embed", f"--model={model}", f"--images={folder}", f"--output={output}")
    assert ended.status == 0, ended.error
    assert pq.read_metadata(output).num_rows == len(NAMES)
    shards = tmp_path / "shards"
    ended = flava(
        "data", "build", "images", "--annotations", folder, "--output", shards, "--processes", 1
    )
    assert ended.status == 0, ended.error
    assert json.loads((shards / "manifest.json").read_bytes())["kept"] == len(NAMES)


COLUMNS = [("path", "caption", "label"), ("file", "text", "label"), ("image", "content", "label")]


@pytest.mark.parametrize("columns", COLUMNS)
def test_every_command_knows_the_columns_of_a_table(
    flava: Command, model: Path, images: Path, tmp_path: Path, columns: tuple[str, ...]
) -> None:
    table = write_pairs(images, *columns)
    matched, embedded = tmp_path / "match.jsonl", tmp_path / "embed.npy"
    ended = flava("match", f"--model={model}", f"--pairs={table}", f"--output={matched}")
    assert ended.status == 0, ended.error
    assert len(matched.read_text().splitlines()) == len(NAMES)
    ended = flava("embed", f"--model={model}", f"--texts={table}", f"--output={embedded}")
    assert ended.status == 0, ended.error
    assert len(np.load(embedded)) == len(NAMES)
    run = tmp_path / "probe"
    ended = flava("probe", f"--model={model}", f"--data={table}", f"--output-dir={run}")
    assert ended.status == 0, ended.error
    found = json.loads((run / "classification.json").read_text())
    assert found["kind"] == "pairs"
    for source, sizes in (("pairs", len(NAMES)), ("texts", len(NAMES))):
        shards = tmp_path / source
        command = ["data", "build", source, "--annotations", table, "--output", shards]
        ended = flava(*command, "--processes", 1, "--cleaning.near-duplicates", "None")
        assert ended.status == 0, ended.error
        assert json.loads((shards / "manifest.json").read_bytes())["kept"] == sizes


def test_of_several_captions_all_are_built_and_the_first_is_computed(
    flava: Command, model: Path, images: Path, tmp_path: Path
) -> None:
    table = tmp_path / "captions.jsonl"
    rows = [
        {"path": str(images / "classes" / label(n) / name), "captions": [f"{n} a", f"{n} b"]}
        for n, name in enumerate(NAMES)
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    ended = flava("match", f"--model={model}", f"--pairs={table}", f"--output={output}")
    assert ended.status == 0, ended.error
    texts = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    assert texts == [f"{n} a" for n in range(len(NAMES))]

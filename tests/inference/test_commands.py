"""The commands on a FLAVA with random weights, as a user types them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import flava
from flava.data.paths import CORPUS
from flava.data.shards import RawSample, read_shard
from flava.models import (
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from flava.training.checkpoint import save_checkpoint
from tests.commands import Command, in_this_process
from tests.support import randomise

TRANSFORMER: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
IMAGES = 12
CLASSES = ["animal", "fruit", "red car"]


@pytest.fixture
def run(capsys) -> Command:
    return in_this_process(capsys)


def saved(folder: Path, name: str, seed: int) -> Path:
    torch.manual_seed(seed)
    config = FlavaConfig(
        image=ImageConfig(image_size=16, patch_size=8, **TRANSFORMER),
        text=TextConfig(max_length=12, **TRANSFORMER),
        multimodal=MultimodalConfig(**TRANSFORMER),
        projection_width=8,
        codebook=CodebookConfig(codes=16, width=8, blocks=1, decoder_input_width=8),
    )
    model = Flava(config)
    randomise(model)
    return save_checkpoint(folder, name, model)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("models"), "model", 0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Drawings from the embedded corpus as files, with a table of their captions."""
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for raw in read_shard(CORPUS / "pairs" / "noto-test.tar.gz"):
        assert isinstance(raw, RawSample)
        name = f"{Path(raw.key).name}.webp"
        (root / name).write_bytes(raw.files["webp"])
        rows.append({"image": name, "caption": json.loads(raw.files["json"])["captions"][0]})
        if len(rows) == IMAGES:
            break
    pd.DataFrame(rows).to_csv(root / "pairs.csv", index=False)
    return root


def embeddings(path: Path) -> np.ndarray:
    return np.stack(pq.read_table(path)["embedding"].to_pylist())


def close(got: np.ndarray, wanted: torch.Tensor) -> bool:
    """Rows of another batch are other products: they differ in the last bits."""
    return np.allclose(got, wanted.numpy(), atol=1e-5)


def test_embed_writes_what_python_gives(run, tmp_path, model, pictures):
    pretrained = flava.load(model)
    table = pd.read_csv(pictures / "pairs.csv").sort_values("image")
    files, captions = [pictures / name for name in table["image"]], list(table["caption"])
    (tmp_path / "texts.txt").write_text("\n".join(captions))
    for arguments, wanted in (
        (("--images", pictures), pretrained.encode_image(files)),
        (("--texts", tmp_path / "texts.txt"), pretrained.encode_text(captions)),
    ):
        output = tmp_path / f"{arguments[0]}.parquet"
        ended = run("embed", "--model", model, *arguments, "--output", output, "--batch-size", 5)
        assert ended.status == 0, ended.error
        assert f"{output}: {IMAGES} rows" in ended.out
        assert close(embeddings(output), wanted)
        assert pq.read_schema(output).metadata[b"flava.model"].decode() == pretrained.identity
    output = tmp_path / "pairs.npy"
    ended = run("embed", "--model", model, "--pairs", pictures / "pairs.csv", "--output", output)
    assert ended.status == 0, ended.error
    table = pd.read_csv(pictures / "pairs.csv")
    files = [pictures / name for name in table["image"]]
    assert close(np.load(output), pretrained.encode_pair(files, list(table["caption"])))


def test_embed_lists_what_it_skipped(run, tmp_path, model):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 20), "red").save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").touch()
    output = tmp_path / "out.parquet"
    ended = run("embed", "--model", model, "--images", tmp_path / "in", "--output", output)
    assert ended.status == 0
    assert f"{output}: 1 rows skipped 1: image cannot be decoded (1)" in ended.out
    assert json.loads((tmp_path / "out.skipped.jsonl").read_text())["path"] == "b.png"


def test_classify_and_match_write_what_python_gives(run, tmp_path, model, pictures):
    pretrained = flava.load(model)
    output = tmp_path / "classes.csv"
    arguments = ("--images", pictures, "--classes", ",".join(CLASSES), "--output", output)
    ended = run("classify", "--model", model, *arguments)
    assert ended.status == 0, ended.error
    frame = pd.read_csv(output)
    wanted = pretrained.classify([pictures / path for path in frame["path"]], CLASSES)
    assert list(frame["class_1"]) == wanted.best
    assert close(frame["probability_1"].to_numpy(), wanted.probabilities.amax(dim=1))
    output = tmp_path / "match.parquet"
    ended = run("match", "--model", model, "--pairs", pictures / "pairs.csv", "--output", output)
    assert ended.status == 0, ended.error
    frame = pd.read_parquet(output)
    assert list(frame.columns) == ["path", "text", "cosine", "probability"]
    wanted = pretrained.match([pictures / path for path in frame["path"]], list(frame["text"]))
    assert wanted.probability is not None
    assert close(frame["cosine"].to_numpy(), wanted.cosine)
    assert close(frame["probability"].to_numpy(), wanted.probability)


def test_without_an_output_the_first_rows_are_shown(run, model, pictures):
    ended = run("classify", "--model", model, "--images", pictures, "--classes", "cat,dog")
    assert ended.status == 0, ended.error
    assert f"the first {IMAGES} rows; --output FILE computes all" in ended.out
    for expected in (*(p.name[:8] for p in pictures.glob("*.webp")), "class_1", "cat", "dog"):
        assert expected in ended.out
    ended = run("match", "--model", model, "--pairs", pictures / "pairs.csv")
    assert ended.status == 0, ended.error
    assert "probability" in ended.out


def test_search_finds_by_text_and_by_image_and_writes_a_page(run, tmp_path, model, pictures):
    index = tmp_path / "index"
    ended = run("search", "index", "--model", model, "--images", pictures, "--output", index)
    assert ended.status == 0, ended.error
    assert f"flava search query {index}" in ended.out
    wanted = sorted(pictures.glob("*.webp"))[3]
    ended = run("search", "query", index, "--image", wanted, "--html", tmp_path / "page.html")
    assert ended.status == 0, ended.error
    assert ended.out.strip().startswith(f"1 1.000 {wanted.name} 2 ")
    assert f"of {IMAGES} images" in ended.out
    assert (tmp_path / "page.html").read_text().count("<img ") == 1 + 10
    ended = run("search", "query", index, "--text", "a red apple", "--top", 3)
    pretrained = flava.load(model)
    files = sorted(pictures.glob("*.webp"))
    cosines = pretrained.encode_image(files) @ pretrained.encode_text(["a red apple"])[0]
    found = [files[i].name for i in cosines.argsort(descending=True)[:3].tolist()]
    assert [word for word in ended.out.split() if word.endswith(".webp")] == found


def test_an_index_of_embeddings_needs_no_model(run, tmp_path, model, pictures):
    output, index = tmp_path / "e.parquet", tmp_path / "index"
    run("embed", "--model", model, "--images", pictures, "--output", output)
    assert run("search", "index", "--embeddings", output, "--output", index).status == 0
    assert run("search", "query", index, "--text", "x").status == 0


def test_an_index_made_by_another_model_is_refused(run, tmp_path, model, pictures):
    index, other = tmp_path / "index", saved(tmp_path, "other", 1)
    run("search", "index", "--model", model, "--images", pictures, "--output", index)
    ended = run("search", "query", index, "--text", "x", "--model", other)
    assert ended.status == 1
    for path in (model, other):
        assert flava.load(path).identity in ended.error
        assert str(path) in ended.error
    assert "Leave out --model to take the index's own" in ended.error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("embed --output o.parquet", "give one of --images, --texts and --pairs, not none"),
        ("embed --output o.parquet --images . --texts t", "not --images and --texts"),
        ("embed --output o.parquet --images nowhere", "no file 'nowhere'"),
        ("embed --output o.parquet --images empty", "empty holds no image (in it: nothing)"),
        ("embed --output o.csv --texts t.txt", "--output o.csv must end in .parquet or .npy"),
        ("embed --output o.npy --texts t.txt --batch-size 0", "--batch-size is 0"),
        ("embed --output o.npy --texts t.txt --device tpu", "device is 'tpu'"),
        ("classify --images empty --classes a,b", "holds no image"),
        ("classify --images in --classes a,a", "class_names holds 'a' twice"),
        ("classify --images in --classes a,b --top 0", "--top is 0"),
        ("classify --images in --classes a,b --output o.npy", "must end in .csv or .parquet or"),
        ("match --pairs t.txt", "t.txt has no column image or path or file"),
        ("search index --images in", "--output"),
        ("search index --images in --embeddings e --output i", "give --embeddings alone"),
        ("search query nowhere --text x", "no index at nowhere"),
    ],
)
def test_a_mistake_is_named(run, tmp_path, monkeypatch, model, arguments, expected):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("in").mkdir()
    Path("t.txt").write_text("a text\n")
    Image.new("RGB", (9, 9)).save("in/a.png")
    ended = run(*arguments.split(), *(() if "query" in arguments else ("--model", model)))
    assert ended.status in (1, 2)
    assert expected in ended.error
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize(
    "command", ["embed", "classify", "match", "search index", "search query", "search"]
)
def test_help_says_what_each_command_does(run, command):
    shown = run(*command.split(), "--help")
    assert shown.status == 0
    assert command == "search" or "Where the model comes from" in shown.out


def test_bad_input_ends_a_process_without_a_traceback(tmp_path, model):
    (tmp_path / "t.jsonl").write_bytes(b'\xff\xfe\x00\n{}\n{"text": 3}\n')
    arguments = ["--texts", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / "o.npy")]
    command = [sys.executable, "-m", "flava", "embed", "--model", str(model), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "no row could be used" in ended.stderr

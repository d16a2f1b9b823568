import csv
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from flava.data.decoding import decode_image
from flava.inference.bulk import (
    BulkResult,
    _embedder,
    classify_rows,
    embed_rows,
    match_rows,
    preview_rows,
)
from flava.inference.row_sources import InputKind, InputSource, open_source
from flava.inference.zero_shot import Classes, read_classes
from tests.data.shard_files import encoded, picture, write_tar
from tests.inference.encoders import WIDTH, KnownEncoder, vector

ENCODER = KnownEncoder()


@pytest.fixture
def folder(tmp_path) -> Path:
    """30 images of several sizes, in folders, written in another order than their names'."""
    root = tmp_path / "images"
    for number in (7 * n % 30 for n in range(30)):
        path = root / f"{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, 10 + number, 8)))
    return root


def images(folder: Path) -> InputSource:
    return open_source(InputKind.IMAGES, str(folder))


def embed(
    source: InputSource, output: Path, encoder: KnownEncoder = ENCODER, size: int = 4
) -> BulkResult:
    return embed_rows(encoder, source, output, model="a/b", batch_size=size)


def of_image(path: Path) -> np.ndarray:
    return vector(np.asarray(decode_image(path.read_bytes())).tobytes()).numpy()


def column(path: Path, name: str = "embedding") -> Any:
    return np.stack(pq.read_table(path)[name].to_pylist())


def listed(output: Path) -> list[dict[str, str]]:
    text = output.with_name(f"{output.stem}.skipped.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_embeddings_of_a_folder_in_parquet(tmp_path, folder):
    output = tmp_path / "out.parquet"
    outcome = embed(images(folder), output)
    assert str(outcome) == f"{output}: 30 rows"
    table = pq.read_table(output)
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    paths = table["path"].to_pylist()
    assert paths == sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))
    expected = np.stack([of_image(folder / path) for path in paths])
    assert np.array_equal(column(output), expected.astype(np.float32))
    assert pd.read_parquet(output).shape == (30, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"images", "out.parquet"}


def test_the_file_says_what_made_it(tmp_path, folder):
    embed(images(folder), tmp_path / "out.parquet")
    said = pq.read_schema(tmp_path / "out.parquet").metadata
    assert said[b"flava.model"] == b"model-a"
    assert said[b"flava.source"] == b"a/b"
    assert said[b"flava.kind"] == b"images"
    assert said[b"flava.root"] == str(folder).encode()


def test_npy_holds_the_same_with_the_names_beside_it(tmp_path, folder):
    embed(images(folder), tmp_path / "out.parquet")
    embed(images(folder), tmp_path / "out.npy", size=7)
    table = pq.read_table(tmp_path / "out.parquet")
    assert np.array_equal(np.load(tmp_path / "out.npy"), column(tmp_path / "out.parquet"))
    lines = (tmp_path / "out.rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == table["path"].to_pylist()
    said = json.loads((tmp_path / "out.about.json").read_text())
    assert (said["model"], said["rows"], said["width"]) == ("model-a", 30, WIDTH)


def test_texts_keep_their_order(tmp_path):
    texts = ["zebra", "a, b", "ünï\u2028code", "zebra"]
    (tmp_path / "t.txt").write_text("\n".join(texts), encoding="utf-8")
    output = tmp_path / "out.parquet"
    embed(open_source(InputKind.TEXTS, str(tmp_path / "t.txt")), output, size=3)
    assert pq.read_table(output)["text"].to_pylist() == texts
    expected = np.stack([vector(text.encode()).numpy() for text in texts])
    assert np.array_equal(column(output), expected)


def pairs_table(folder: Path) -> Path:
    table = folder / "pairs.tsv"
    rows = [f"2/{n:02d}.png\ttext {n}" for n in (20, 5, 11)]
    table.write_text("\n".join(["path\ttext", *rows]))
    return table


def test_pairs_have_both_columns(tmp_path, folder):
    output = tmp_path / "out.parquet"
    embed(open_source(InputKind.PAIRS, str(pairs_table(folder))), output)
    table = pq.read_table(output)
    assert table["path"].to_pylist() == ["2/20.png", "2/05.png", "2/11.png"]
    assert table["text"].to_pylist() == ["text 20", "text 5", "text 11"]
    expected = of_image(folder / "2/05.png") - 2 * vector(b"text 5").numpy()
    assert np.allclose(column(output)[1], expected, atol=1e-6)


# Bad input


def huge_png(side: int) -> bytes:
    """A PNG that says it is square with this side; its pixels would take gigabytes."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_bad_files_are_skipped_and_listed(tmp_path, folder):
    (folder / "0" / "00.png").write_bytes(b"")
    (folder / "0" / "03.png").write_bytes(encoded(picture(1))[:60])
    (folder / "0" / "06.jpg").write_bytes(huge_png(30_000))
    (folder / "1" / "99.png").symlink_to("nowhere")
    output = tmp_path / "out.parquet"
    outcome = embed(images(folder), output)
    assert outcome.rows == 28
    assert {(each["path"], each["reason"]) for each in listed(output)} == {
        ("0/00.png", "image cannot be decoded"),
        ("0/03.png", "image cannot be decoded"),
        ("0/06.jpg", "image is too large"),
        ("1/99.png", "not a file"),
    }
    assert "skipped 4: image cannot be decoded (2), image is too large (1)" in str(outcome)
    assert str(tmp_path / "out.skipped.jsonl") in str(outcome)
    paths = pq.read_table(output)["path"].to_pylist()
    assert np.array_equal(
        column(output), np.stack([of_image(folder / path) for path in paths]).astype(np.float32)
    )


def test_an_image_that_goes_away_or_may_not_be_read_is_skipped(tmp_path, folder):
    table = pairs_table(folder)
    table.write_text(table.read_text() + "\nnowhere.png\ta\n2\tb\n")
    output = tmp_path / "out.parquet"
    assert embed(open_source(InputKind.PAIRS, str(table)), output).rows == 3
    assert [each["path"] for each in listed(output)] == ["nowhere.png", "2"]


def test_text_that_is_not_utf8_is_skipped_and_named(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"good\n\xff\xfe\nalso good\n")
    output = tmp_path / "out.npy"
    assert embed(open_source(InputKind.TEXTS, str(tmp_path / "t.txt")), output).rows == 2
    (report,) = listed(output)
    assert report["path"] == "t.txt:2"
    assert report["reason"] == "text is not UTF-8"
    assert report["file"] == str(tmp_path / "t.txt")


def test_an_input_without_a_usable_row_is_an_error_that_counts_the_reasons(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"1.png": b"", "2.png": b"x"})
    output = tmp_path / "out.parquet"
    with pytest.raises(ValueError, match=r"no row could be used.*skipped 2: image cannot be dec"):
        embed(images(tar), output)
    assert not output.exists()


def test_embeddings_that_are_no_numbers_are_skipped(tmp_path, folder):
    class Overflowing(KnownEncoder):
        def encode_image(self, images):
            wide = [[isinstance(i, Image.Image) and i.width == 15] for i in images]
            return super().encode_image(images).masked_fill(torch.tensor(wide), math.inf)

    output = tmp_path / "out.parquet"
    assert embed(images(folder), output, Overflowing()).rows == 29
    assert "2/05.png" not in pq.read_table(output)["path"].to_pylist()
    assert [each["path"] for each in listed(output)] == ["2/05.png"]


@pytest.mark.parametrize("name", ["out.csv", "out", "out.parquet.gz"])
def test_an_unknown_format_is_refused(tmp_path, folder, name):
    with pytest.raises(ValueError, match=f"{name} must end in .parquet or .npy"):
        embed(images(folder), tmp_path / name)


def test_an_output_is_never_written_over(tmp_path, folder):
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.parquet is there already: delete it, or give"):
        embed(images(folder), tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "mine"


def test_large_images_do_not_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr("flava.inference.row_sources.BATCH_PIXELS", 1000)
    files = {f"{n}.png": encoded(picture(n, 20, 20)) for n in range(5)}
    tar = write_tar(tmp_path / "a.tar", files)
    encoder = KnownEncoder()
    embed(images(tar), tmp_path / "out.parquet", encoder, size=64)
    assert encoder.batches == [3, 2]


# Classes


CLASSES = Classes(names=("cat", "dog", "red car"), templates=("{}", "a photo of a {}"))


def prompts_vector(name: str) -> np.ndarray:
    both = np.stack([vector(t.format(name).encode()).numpy() for t in CLASSES.templates])
    return both.mean(0) / np.linalg.norm(both.mean(0))


def expected_classes(path: Path) -> list[tuple[str, float]]:
    classes = np.stack([prompts_vector(name) for name in CLASSES.names])
    logits = math.exp(ENCODER.logit_scale) * classes @ of_image(path)
    share = np.exp(logits) / np.exp(logits).sum()
    return sorted(zip(CLASSES.names, share, strict=True), key=lambda each: -each[1])


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_classes_are_those_of_the_mean_prompt(tmp_path, folder, ending):
    output = tmp_path / f"out{ending}"
    classify_rows(ENCODER, images(folder), output, CLASSES, top=2, batch_size=4)
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    frame = (
        pd.read_json(output, lines=True, dtype={"path": str})
        if ending == ".jsonl"
        else read[ending](output)
    )
    names = ["path", "class_1", "probability_1", "class_2", "probability_2"]
    assert list(frame.columns) == names
    assert len(frame) == 30
    for row in frame.to_dict("records"):
        best, second, _ = expected_classes(folder / row["path"])
        assert (row["class_1"], row["class_2"]) == (best[0], second[0])
        assert row["probability_1"] == pytest.approx(best[1], rel=1e-5)
        assert row["probability_2"] == pytest.approx(second[1], rel=1e-5)


def test_more_places_than_classes_are_not_asked_for(tmp_path, folder):
    output = tmp_path / "out.csv"
    classify_rows(ENCODER, images(folder), output, CLASSES, top=9)
    assert output.read_text().splitlines()[0].endswith("class_3,probability_3")


def test_classes_from_a_list_or_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffcat\n\n red car \n", encoding="utf-8")
    (tmp_path / "templates.txt").write_text("a {}.\n")
    assert read_classes("cat, red car", None).names == ("cat", "red car")
    assert read_classes(str(tmp_path / "names.txt"), tmp_path / "templates.txt") == Classes(
        names=("cat", "red car"), templates=("a {}.",)
    )
    assert len(read_classes(",".join(map(str, range(5000))), None).names) == 5000


@pytest.mark.parametrize(
    ("classes", "template", "expected"),
    [
        (",", "{}", "class_names is empty"),
        ("cat,dog,cat", "{}", "holds 'cat' twice"),
        ("cat,dog", "a photo", r"template 'a photo': write one .{}."),
        ("cat,dog", "{name} {}", r"template '{name} {}': write one .{}."),
        ("cat,cat", "x", r"(?s)'cat' twice.*write one .{}."),
        ("cat", "{}", "--classes cat is no file"),
    ],
)
def test_classes_that_do_not_hold_are_refused(tmp_path, classes, template, expected):
    (tmp_path / "templates.txt").write_text(template)
    with pytest.raises((ValueError, OSError), match=expected.replace("{", r"\{")):
        read_classes(classes, tmp_path / "templates.txt")


def test_a_list_of_classes_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"cat\nd\xff\n")
    with pytest.raises(ValueError, match=r"names\.txt is not UTF-8 \(byte 5\)"):
        read_classes(str(tmp_path / "names.txt"), None)


# Matching


def test_matching_gives_both_scores_of_each_pair(tmp_path, folder):
    output = tmp_path / "out.csv"
    match_rows(ENCODER, open_source(InputKind.PAIRS, str(pairs_table(folder))), output)
    with output.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["text 20", "text 5", "text 11"]
    for row in rows:
        cosine = float(of_image(folder / row["path"]) @ vector(row["text"].encode()).numpy())
        assert float(row["cosine"]) == pytest.approx(cosine, abs=1e-6)
        assert float(row["probability"]) == pytest.approx(1 / (1 + math.exp(-3 * cosine)), abs=1e-6)


def test_a_look_at_the_first_rows(folder):
    (folder / "0" / "00.png").write_bytes(b"")
    rows, skipped = preview_rows(images(folder), _embedder(ENCODER, InputKind.IMAGES))
    assert len(rows) == 20
    assert rows[0] == {"path": "0/03.png"}
    assert [each.key for each in skipped] == ["0/00.png"]

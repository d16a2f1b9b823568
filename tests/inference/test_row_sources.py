import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flava.data.errors import SkippedSample
from flava.inference.row_sources import InputKind, InputRow, open_source
from tests.data.shard_files import encoded, pair_files, picture, write_tar


def rows(kind: InputKind, name: object) -> list[InputRow]:
    return [
        found for _, found in open_source(kind, str(name)).rows() if isinstance(found, InputRow)
    ]


def reports(kind: InputKind, name: object) -> list[tuple[str, str]]:
    source = open_source(kind, str(name))
    return [(r.key, r.reason) for _, r in source.rows() if isinstance(r, SkippedSample)]


def test_images_of_a_folder_come_sorted_by_path(tmp_path):
    for name in ("b.png", "a/z.png", "a-b/c.png", "a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = rows(InputKind.IMAGES, tmp_path)
    assert [row.path for row in found] == ["a-b/c.png", "a.png", "a/z.png", "b.png"]
    assert [row.image for row in found] == [tmp_path / str(row.path) for row in found]


def test_images_of_tars_come_tar_after_tar(tmp_path):
    write_tar(tmp_path / "b.tar", pair_files(range(2)))
    write_tar(tmp_path / "a.tar.gz", {"x/2.png": b"two", "x/1.png": b"one", "x/1.jpg": b"uno"})
    found = rows(InputKind.IMAGES, tmp_path / "*.tar*")
    assert [row.path for row in found] == [
        "a.tar.gz/x/2.png",
        "a.tar.gz/x/1.png",
        "a.tar.gz/x/1.jpg",
        "b.tar/00000.png",
        "b.tar/00001.png",
    ]
    assert [row.image for row in found[:3]] == [b"two", b"one", b"uno"]


def test_pairs_and_texts_of_a_tar_have_the_first_caption(tmp_path):
    files = pair_files(range(2)) | {"2.png": b"", "3.json": b'{"captions": ["alone"]}'}
    tar = write_tar(tmp_path / "a.tar", files)
    assert [row.columns() for row in rows(InputKind.PAIRS, tar)] == [
        {"path": "a.tar/00000.png", "text": "picture number 0"},
        {"path": "a.tar/00001.png", "text": "picture number 1"},
    ]
    assert reports(InputKind.PAIRS, tar) == [
        ("a.tar/2.png", "sample has no caption"),
        ("a.tar/3", "sample has no image"),
    ]
    assert [row.text for row in rows(InputKind.TEXTS, tar)] == [
        "picture number 0",
        "picture number 1",
        "alone",
    ]


@pytest.mark.parametrize(("image", "text"), [("image", "text"), ("file", "caption")])
def test_pairs_of_a_table_lie_beside_it(tmp_path, image, text):
    table = tmp_path / "pairs.csv"
    table.write_text(f"{text},{image}\na cat,cats/1.png\na dog,{tmp_path}/2.png\n")
    assert rows(InputKind.PAIRS, table) == [
        InputRow(path="cats/1.png", image=tmp_path / "cats/1.png", text="a cat"),
        InputRow(path=f"{tmp_path}/2.png", image=tmp_path / "2.png", text="a dog"),
    ]


def test_texts_of_several_files_keep_the_order_of_their_lines(tmp_path):
    (tmp_path / "b.txt").write_text("one\ntwo\n")
    (tmp_path / "a.jsonl").write_text('{"text": "zero"}\n')
    names = tmp_path / "{b.txt,a.jsonl}"
    assert [row.text for row in rows(InputKind.TEXTS, names)] == ["one", "two", "zero"]


def test_images_inside_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    images = [{"bytes": b"1", "path": "x.png"}, {"bytes": b"2", "path": None}, None]
    pq.write_table(pa.table({"image": images}), path)
    assert rows(InputKind.IMAGES, path) == [
        InputRow(path="x.png", image=b"1"),
        InputRow(path="a.parquet:2", image=b"2"),
    ]
    assert reports(InputKind.IMAGES, path) == [("a.parquet:3", "path of an image is missing")]


def test_rows_that_cannot_be_used_are_reported(tmp_path):
    table = tmp_path / "a.jsonl"
    lines = [{"text": "a"}, {"text": " "}, {"text": 3}, {}, {"text": "\ud800"}, {"text": "b"}]
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row.text for row in rows(InputKind.TEXTS, table)] == ["a", "b"]
    assert reports(InputKind.TEXTS, table) == [
        ("a.jsonl:2", "text is empty"),
        ("a.jsonl:3", "text is missing"),
        ("a.jsonl:4", "column is missing"),
        ("a.jsonl:5", "text is not UTF-8"),
    ]


def test_one_damaged_file_of_several_is_reported(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
    assert [row.text for row in rows(InputKind.TEXTS, tmp_path / "*.parquet")] == ["x"]
    assert reports(InputKind.TEXTS, tmp_path / "*.parquet") == [("", "table cannot be read")]
    write_tar(tmp_path / "b.tar", {"1.png": b"1"})
    (tmp_path / "c.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:700])
    (tmp_path / "d.tar").touch()
    assert [row.path for row in rows(InputKind.IMAGES, tmp_path / "*.tar")][:1] == ["b.tar/1.png"]
    assert [reason for _, reason in reports(InputKind.IMAGES, tmp_path / "*.tar")] == [
        "shard is damaged",
        "shard is damaged",
    ]


def test_the_share_done_grows_to_one(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("line\n" * 5)
    shares = [done for done, _ in open_source(InputKind.TEXTS, f"{tmp_path}/*.txt").rows()]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert shares[4] <= 1 / 3


def test_the_fingerprint_changes_with_the_files_and_not_with_their_place(tmp_path):
    def fingerprint(folder: Path) -> str:
        return open_source(InputKind.IMAGES, str(folder)).fingerprint

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
        os.utime(tmp_path / name / "x.png", (1, 1))
    first = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "b") == first
    os.utime(tmp_path / "a" / "x.png", (2, 2))
    assert fingerprint(tmp_path / "a") != first
    (tmp_path / "b" / "y.png").write_bytes(b"2")
    assert fingerprint(tmp_path / "b") != first


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (InputKind.IMAGES, "nowhere", "no file"),
        (InputKind.IMAGES, "empty", "empty holds no image (in it: nothing): images end in .jpg"),
        (InputKind.IMAGES, "tars", "holds no image (in it: 1 with .tar, 1 with no ending)"),
        (InputKind.IMAGES, "tars", "for tars give '"),
        (
            InputKind.IMAGES,
            "a.zip",
            "a.zip is of an unknown kind: give a folder, or a file that ends",
        ),
        (InputKind.TEXTS, "tars", "tars is a folder: give a table"),
        (
            InputKind.TEXTS,
            "a.csv",
            "no column text or caption or captions or content or maintext; "
            "its columns are 'id', 'wörd'",
        ),
        (InputKind.PAIRS, "a.csv", "no column image or path or file; its columns are 'id', 'wörd'"),
        (InputKind.PAIRS, "a.txt", "no column image or path or file; its columns are 'text'"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(tmp_path, kind, name, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").touch()
    (tmp_path / "tars" / "README").touch()
    (tmp_path / "a.zip").touch()
    (tmp_path / "a.csv").write_text("id,wörd\n1,2\n")
    (tmp_path / "a.txt").write_text("line\n")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_source(kind, str(tmp_path / name))
    assert expected in str(caught.value)


def test_all_mistakes_are_named_at_once(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id\n1\n")
    with pytest.raises(ValueError, match=r"(?s)a\.csv.*image.*a\.csv.*text.*b\.csv.*b\.csv"):
        open_source(InputKind.PAIRS, f"{tmp_path}/*.csv")


def test_files_are_not_read_before_their_turn(tmp_path):
    """What is over already is passed over quickly: a folder's rows hold no bytes."""
    (tmp_path / "a.png").write_bytes(encoded(picture(1)))
    ((_, row),) = open_source(InputKind.IMAGES, str(tmp_path)).rows()
    assert isinstance(row, InputRow)
    assert isinstance(row.image, Path)
    assert not isinstance(row.image, bytes | io.BytesIO)

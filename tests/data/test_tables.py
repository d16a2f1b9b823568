"""Tables written by pandas and pyarrow, and damaged by hand."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flava.data.errors import SkippedSample
from flava.data.tables import LONGEST_CELL, Record, is_table, read_table, table_columns

TEXTS = ['plain, "quoted"', "two\nlines", "tab\there", "ünïcode 漢字", " spaces "]
COLUMNS = ("image", "text")


def written(folder: Path, ending: str) -> Path:
    """The texts, with a column that is not asked for, by pandas' own writer."""
    path = folder / f"table{ending}"
    frame = pd.DataFrame(
        {"id": range(5), "text": TEXTS, "image": [f"{n}.png" for n in range(5)], "more": 0.5}
    )
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending.startswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending.startswith(".tsv") else ",")
    return path


def records(path: Path) -> list[Record]:
    found = list(read_table(path, COLUMNS))
    assert all(isinstance(each, Record) for each in found), found
    return [each for each in found if isinstance(each, Record)]


def reports(path: Path) -> list[tuple[str, str]]:
    return [(r.key, r.reason) for r in read_table(path, COLUMNS) if isinstance(r, SkippedSample)]


def texts(path: Path) -> list[Any]:
    return [r.cells.get("text") for r in read_table(path, COLUMNS) if isinstance(r, Record)]


@pytest.mark.parametrize(
    "ending", [".csv", ".tsv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".tsv.gz"]
)
def test_every_format_gives_what_was_written(tmp_path, ending):
    path = written(tmp_path, ending)
    assert is_table(path)
    assert table_columns(path) == ["id", "text", "image", "more"]
    found = records(path)
    assert [each.cells["text"] for each in found] == TEXTS
    assert [each.cells["image"] for each in found] == [f"{n}.png" for n in range(5)]
    done = [each.done for each in found]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)


def test_plain_lines(tmp_path):
    path = tmp_path / "lines.txt.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbffirst\r\n\n  \nsecond"))
    assert [(each.number, each.cells) for each in records(path)] == [
        (1, {"text": "first"}),
        (4, {"text": "second"}),
    ]


def test_bytes_that_are_not_utf8_stay_in_their_record(tmp_path):
    good, bad = "ü", "\udcff"
    lines = tmp_path / "a.txt"
    lines.write_bytes(b"\xc3\xbc\n\xff\n\xc3\xbc\n")
    table = tmp_path / "a.csv"
    table.write_bytes(b"text\n\xc3\xbc\n\xff\n\xc3\xbc\n")
    objects = tmp_path / "a.jsonl"
    objects.write_bytes(b'{"text": "\xc3\xbc"}\n{"text": "\xff"}\n{"text": "\xc3\xbc"}\n')
    parquet = tmp_path / "a.parquet"
    invalid = pa.array([b"\xc3\xbc", b"\xff", b"\xc3\xbc"]).view(pa.string())
    pq.write_table(pa.table({"text": invalid}), parquet)
    for path in (lines, table, objects, parquet):
        assert texts(path) == [good, bad, good], path


def test_a_damaged_record_is_reported_in_its_place(tmp_path):
    objects = tmp_path / "a.jsonl"
    objects.write_text('{"text": "a"}\n{"text": \n[1]\n\n{"text": "b"}\n')
    assert texts(objects) == ["a", "b"]
    assert reports(objects) == [
        ("a.jsonl:2", "json cannot be decoded"),
        ("a.jsonl:3", "json is not an object"),
    ]
    table = tmp_path / "a.csv"
    table.write_text(f'text,image\na,1\nb\n"{"x" * (LONGEST_CELL + 1)}",2\n\nc,3\n')
    assert texts(table) == ["a", "c"]
    assert reports(table) == [
        ("a.csv:3", "line does not fit the columns"),
        ("a.csv:4", "line is no CSV"),
    ]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".txt", ".parquet", ".csv.gz"])
def test_an_empty_table_is_reported(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.touch()
    assert table_columns(path) is None
    ((_, reason),) = reports(path)
    assert reason in ("table is empty", "table cannot be read")


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_gives_its_whole_records_and_a_report(tmp_path, ending, damage):
    path = written(tmp_path, ending)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    path.write_bytes(data[:middle] if damage == "cut" else data[:middle] + b"\xff" * middle)
    assert len(reports(path)) >= 1
    assert reports(path)[-1][1] in ("table cannot be read", "line does not fit the columns")


def test_categories_and_images_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": pd.Categorical(["a", "b", "a"])})
    table = pa.Table.from_pandas(frame).append_column(
        "image", pa.array([{"bytes": b"1", "path": None}, None, {"bytes": b"3", "path": "c"}])
    )
    pq.write_table(table, path)
    assert [each.cells for each in records(path)] == [
        {"text": "a", "image": {"bytes": b"1", "path": None}},
        {"text": "b", "image": None},
        {"text": "a", "image": {"bytes": b"3", "path": "c"}},
    ]


def test_json_with_half_a_surrogate_pair_is_read_as_it_stands(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "\ud800"}) + "\n")
    assert texts(path) == ["\ud800"]


def test_parquet_is_not_held_in_memory(tmp_path):
    """64 MB of images in row groups of 2 MB."""
    path, blob = tmp_path / "a.parquet", random.Random(0).randbytes(2**18)
    with pq.ParquetWriter(path, pa.schema({"image": pa.binary()}), use_dictionary=False) as writer:
        for start in range(0, 256, 8):
            rows = [bytes([start + n]) + blob for n in range(8)]
            writer.write_table(pa.table({"image": rows}))
    before, peak, count = pa.total_allocated_bytes(), 0, 0
    for each in read_table(path, COLUMNS):
        assert isinstance(each, Record)
        assert each.cells["image"][0] == count
        peak, count = max(peak, pa.total_allocated_bytes() - before), count + 1
    assert count == 256
    assert peak < 40 * 2**20

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.data.labelled import LabelledRow, class_names, draw_validation, read_rows
from tests.data.shard_files import encoded, picture


def image_folder(folder: Path, **counts: int) -> Path:
    """``counts`` images for each class."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for n in range(count):
            (folder / label / f"{n}.png").write_bytes(encoded(picture(n)))
    return folder


def found(path: Path, **options: bool) -> list[tuple[str, str | None]]:
    return [(row.key, row.label) for row in read_rows(path, **options).rows]


# Splits

LABELS = st.lists(st.sampled_from("abcde"), max_size=60)


@given(labels=LABELS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9), swap=st.randoms())
def test_a_split_has_each_classs_share_whatever_the_order(labels, fraction, seed, swap):
    rows = [LabelledRow(shard="s", key=f"k{i}", label=label) for i, label in enumerate(labels)]
    chosen = draw_validation(rows, fraction, seed)
    total, taken = Counter(labels), Counter(labels[i] for i in chosen)
    for label, n in total.items():
        if n == 1:
            assert taken[label] == 0
        else:
            assert 1 <= taken[label] <= n - 1
            assert abs(taken[label] - fraction * n) <= 1
    shuffled = list(rows)
    swap.shuffle(shuffled)
    again = {shuffled[i].key for i in draw_validation(shuffled, fraction, seed)}
    assert again == {rows[i].key for i in chosen}


def test_another_seed_draws_others():
    rows = [LabelledRow(shard="s", key=f"k{i}", label="a") for i in range(40)]
    assert len({frozenset(draw_validation(rows, 0.5, seed)) for seed in range(5)}) == 5


# Folders


def test_a_folder_of_images_has_its_subfolders_for_classes_at_any_depth(tmp_path):
    image_folder(tmp_path / "d", dog=2, cat=1)
    (tmp_path / "d" / "cat" / "more").mkdir()
    (tmp_path / "d" / "cat" / "more" / "x.y.JPG").write_bytes(encoded(picture(3), "JPEG"))
    (tmp_path / "d" / "cat" / ".hidden.png").write_bytes(b"")
    rows = read_rows(tmp_path / "d")
    assert rows.kind == "images"
    assert [(row.key, row.label) for row in rows.rows] == [
        ("cat/0", "cat"),
        ("cat/more/x.y", "cat"),
        ("dog/0", "dog"),
        ("dog/1", "dog"),
    ]
    assert class_names(rows) == ("cat", "dog")
    assert not rows.skips.counts


def test_files_of_one_name_are_a_pair_and_what_lacks_a_side_is_named(tmp_path):
    folder = image_folder(tmp_path / "d", a=3, b=2)
    for path in list(folder.rglob("*.png"))[1:]:
        path.with_suffix(".txt").write_text(f" what {path.stem} says\n")
    rows = read_rows(folder)
    assert rows.kind == "pairs"
    assert len(rows) == 4
    assert rows.rows[0].text is not None
    assert rows.skips.counts == {"sample has no text": 1}


def test_texts_alone_that_are_empty_or_not_utf8_are_named(tmp_path):
    for label, contents in {"a": [b"one", b"two", b"\xff\xfe"], "b": [b"three", b" \n"]}.items():
        (tmp_path / label).mkdir()
        for n, content in enumerate(contents):
            (tmp_path / label / f"{n}.txt").write_bytes(content)
    rows = read_rows(tmp_path)
    assert (rows.kind, [row.text for row in rows.rows]) == ("text", ["one", "two", "three"])
    assert rows.skips.counts == {"text is not UTF-8": 1, "text is empty": 1}
    assert [report.key for report in rows.skips.named] == ["a/2", "b/1"]


def test_two_images_of_one_name_are_two_samples_and_a_readme_is_none(tmp_path):
    folder = image_folder(tmp_path, a=1, b=1)
    (folder / "a" / "0.jpg").write_bytes(encoded(picture(1), "JPEG"))
    (folder / "a" / "readme.txt").write_text("about these")
    (folder / "notes.md").write_text("about all")
    rows = read_rows(folder)
    assert [row.key for row in rows.rows] == ["a/0.jpg", "a/0.png", "b/0"]
    assert rows.kind == "images"
    assert rows.skips.counts == {"sample has no image": 1, "file is in no class's folder": 1}


def test_without_labels_everything_below_a_folder_counts(tmp_path):
    image_folder(tmp_path, a=1)
    (tmp_path / "top.png").write_bytes(encoded(picture(1)))
    assert found(tmp_path, labelled=False) == [("a/0", None), ("top", None)]


def test_folders_that_are_no_data_are_errors_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data at .*nowhere"):
        read_rows(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no subfolders: put the samples of each class"):
        read_rows(tmp_path)
    image_folder(tmp_path / "splits", train=1, val=1)
    with pytest.raises(ValueError, match=r"are splits, not classes \(train, val\): give one"):
        read_rows(tmp_path / "splits")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no sample"):
        read_rows(tmp_path / "empty")
    (tmp_path / "other.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.jsonl, \.csv, \.tsv, \.parquet"):
        read_rows(tmp_path / "other.xlsx")


# Tables

RECORDS = [{"text": f"some words, {n}", "label": "ab"[n % 2]} for n in range(4)]


def table(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), delimiter=",\t"[path.suffix == ".tsv"])
            writer.writeheader()
            writer.writerows(records)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, suffix):
    rows = read_rows(table(tmp_path / f"t.{suffix}", RECORDS))
    assert rows.kind == "text"
    assert [{"text": row.text, "label": row.label} for row in rows.rows] == RECORDS


def test_images_are_paths_from_the_tables_folder_or_bytes(tmp_path):
    (tmp_path / "i.png").write_bytes(encoded(picture(0)))
    records = [{"image": "i.png", "label": 1}, {"image": str(tmp_path / "i.png"), "label": 2}]
    rows = read_rows(table(tmp_path / "t.jsonl", records))
    assert [row.image for row in rows.rows] == [tmp_path / "i.png"] * 2
    assert rows.labels == ["1", "2"]
    stored = [
        {"image": {"bytes": b"abc", "path": "x"}, "label": 1.0},
        {"image": None, "label": 2.0},
    ]
    rows = read_rows(table(tmp_path / "t.parquet", [*stored, stored[0]]))
    assert [row.image for row in rows.rows] == [b"abc"] * 2
    assert rows.labels == ["1", "1"]


def test_missing_columns_are_all_named_with_those_that_there_are(tmp_path):
    path = table(tmp_path / "t.csv", [{"sentence": "x", "class": "a"}])
    with pytest.raises(ValueError, match=r"t\.csv has no column") as error:
        read_rows(path)
    for part in ('"image" or "text"', '"label"', "its columns are sentence, class"):
        assert part in str(error.value)


def test_bad_rows_are_named_by_their_line_and_left_out(tmp_path):
    good = [{"image": "i.png", "label": "a"}] * 4
    (tmp_path / "i.png").write_bytes(encoded(picture(0)))
    bad = [
        {"image": "gone.png", "label": "a"},
        {"image": "i.png", "label": " "},
        {"image": "", "label": "a"},
    ]
    rows = read_rows(table(tmp_path / "t.csv", [*good, *bad]))
    assert len(rows) == 4
    assert rows.skips.counts == {
        "image is missing": 1,
        "label is missing": 1,
        "sample has no image": 1,
    }
    assert {report.key for report in rows.skips.named} == {"t.csv:6", "t.csv:7", "t.csv:8"}


def test_a_table_that_is_empty_or_mostly_bad_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("image,label\n")
    with pytest.raises(ValueError, match="table is empty"):
        read_rows(tmp_path / "t.csv")
    (tmp_path / "u.csv").write_text("")
    with pytest.raises(ValueError, match="table is empty"):
        read_rows(tmp_path / "u.csv")
    records = [{"image": f"{n}.png", "label": "a"} for n in range(5)]
    with pytest.raises(ValueError, match=r"5 of 5; 5 times: image is missing.*no file .*0\.png"):
        read_rows(table(tmp_path / "v.csv", records))


def test_the_digest_tells_data_sets_apart(tmp_path):
    first = read_rows(table(tmp_path / "t.csv", RECORDS))
    assert first.digest == read_rows(tmp_path / "t.csv").digest
    relabelled = (*first.rows[:-1], replace(first.rows[-1], label="a"))
    assert first.digest != replace(first, rows=relabelled).digest

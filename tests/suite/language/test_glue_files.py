"""GLUE's files in both formats, their oddities, and all that may be wrong with them."""

import json
from pathlib import Path

import pytest

from flava.suite.language import NLP
from flava.suite.language.glue import COLA, GLUE, MNLI, MRPC, QQP, RTE, SST2, STSB, GlueTask
from flava.suite.language.glue_files import (
    MSR_IDS,
    MSR_TEST,
    MSR_TRAIN,
    SplitRows,
    missing,
    read_splits,
)
from tests.suite.language.glue_data import (
    HUB_TEXTS,
    head_of,
    official_lines,
    samples,
    write_all,
    write_hub,
    write_official,
)


def read_all(folder: Path, task: GlueTask) -> list[SplitRows]:
    return read_splits(folder, task, (task.train, *task.validation, *task.test))


@pytest.mark.parametrize("hub", [False, True], ids=["official", "hub"])
@pytest.mark.parametrize("task", GLUE, ids=lambda task: task.name)
def test_each_task_is_read_in_both_formats(tmp_path, task, hub):
    folder = write_all(tmp_path, task, hub=hub)
    assert missing(folder, task) == []
    splits = (task.train, *task.validation, *task.test)
    for split, read in zip(splits, read_all(folder, task), strict=True):
        expected = samples(task, 12 if split is task.train else 6, start=len(split.name))
        assert [row.text for row in read.rows] == [each.first for each in expected]
        second = len(HUB_TEXTS[task.name]) == 2
        assert [row.second for row in read.rows] == [
            each.second if second else None for each in expected
        ]
        assert [row.key for row in read.rows] == [str(i) for i in range(len(expected))]
        if split in task.test:
            assert {(row.label, row.score) for row in read.rows} == {(None, None)}
        elif task is STSB:
            assert [row.score for row in read.rows] == [each.target / 5 for each in expected]
        else:
            assert [row.label for row in read.rows] == [each.target for each in expected]


def test_json_lines_are_read_as_parquet_is(tmp_path):
    folder = tmp_path / RTE.folder
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        lines = [
            {"sentence1": s.first, "sentence2": s.second, "label": i % 2, "idx": i}
            for i, s in enumerate(samples(RTE, 4))
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    train, _ = read_splits(folder, RTE, (RTE.train, *RTE.validation))
    assert [row.label for row in train.rows] == ["entailment", "not_entailment"] * 2


def test_cells_end_at_tabs_and_lines_at_line_feeds_alone(tmp_path):
    odd = ['"quoted', "line\u2028separator", "next\u0085line", 'a " b', "", "über"]
    lines = ["sentence\tlabel", *(f"{text} \t{i % 2}" for i, text in enumerate(odd))]
    folder = tmp_path / SST2.folder
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode() + b"\r\n")
    (read,) = read_splits(folder, SST2, (SST2.train,))
    assert [row.text for row in read.rows] == [f"{text} " for text in odd]
    assert read.rows[1].label == "1"


def test_broken_lines_of_qqp_are_passed_over_and_counted(tmp_path):
    folder = write_all(tmp_path, QQP, hub=False)
    path = folder / "train.tsv"
    lines = path.read_text().split("\n")
    lines[3:3] = ["7\ta question", "that goes on here?\tanother\t0", ""]
    path.write_text("\n".join(lines))
    (read,) = read_splits(folder, QQP, (QQP.train,))
    assert read.dropped == 3
    assert [row.text for row in read.rows] == [s.first for s in samples(QQP, 12, start=5)]


def test_mrpc_as_microsoft_gives_it_is_divided_by_the_list_of_ids(tmp_path):
    folder = tmp_path / MRPC.folder
    folder.mkdir(parents=True)
    lines = official_lines(MRPC, "train", samples(MRPC, 10))
    for name in (MSR_TRAIN, MSR_TEST):
        (folder / name).write_text("\ufeff" + "\r\n".join(lines) + "\r\n", newline="")
    assert "dev_ids.tsv" in missing(folder, MRPC)[0]
    (folder / MSR_IDS).write_text("2\t1002\n5\t1005\n9\t1009\n")
    train, validation, test = read_all(folder, MRPC)
    assert [row.text for row in validation.rows] == [samples(MRPC, 10)[i].first for i in (2, 5, 9)]
    assert len(train.rows) == 7
    assert len(test.rows) == 10
    assert test.rows[0].label is None


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path):
    folder = tmp_path / "glue" / "sst2"  # the name that `datasets` has for it
    asked = tmp_path / SST2.folder
    *_, path = (
        write_hub(folder, SST2, "train", samples(SST2, 4, start=4 * i), f"-{i:05}-of-00003")
        for i in range(3)
    )
    write_hub(folder, SST2, "validation", samples(SST2, 4))
    path.unlink()
    assert [Path(line).name for line in missing(asked, SST2)] == ["train-00002-of-00003.parquet"]
    with pytest.raises(ValueError, match=r"train-00002-of-00003\.parquet: file is missing"):
        read_splits(asked, SST2, (SST2.train,))


def test_every_file_that_is_missing_is_named_and_the_test_split_is_not_needed(tmp_path):
    lines = missing(tmp_path / MNLI.folder, MNLI)
    assert len(lines) == 3
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        assert any(line.startswith(str(tmp_path / MNLI.folder / name)) for line in lines)


def test_all_mistakes_are_in_one_error_with_file_and_line(tmp_path):
    folder = write_all(tmp_path, RTE, hub=False)
    train, dev = folder / "train.tsv", folder / "dev.tsv"
    lines = train.read_text().split("\n")
    lines[2] = lines[2].replace("entailment", "maybe")
    lines[3] = "one\tcell too few"
    lines[5] = "0" + lines[5][1:]
    train.write_text("\n".join(lines))
    dev.write_text(dev.read_text().replace("not_entailment", "entailment"))
    with pytest.raises(ValueError, match="the data of RTE cannot be used") as error:
        read_splits(folder, RTE, (RTE.train, *RTE.validation))
    said = str(error.value)
    assert f"{train}:3: label is 'not_maybe'" in said or f"{train}:3: label is 'maybe'" in said
    assert f"{train}:4: line has not as many cells as the first one" in said
    assert f"{dev}: no row is of class not_entailment" in said
    train.write_text("\n".join(lines[:2] + lines[4:]))
    with pytest.raises(ValueError, match="id 0 occurs more than once, in lines 2, 4"):
        read_splits(folder, RTE, (RTE.train,))


def test_classes_by_number_and_scores_out_of_range_are_named(tmp_path):
    folder = tmp_path / STSB.folder
    rows = samples(STSB, 8)
    path = write_official(folder, STSB, "train", rows)
    path.write_text(path.read_text().replace("\t0.5\n", "\t5.5\n").replace("\t1.0\n", "\tnan\n"))
    with pytest.raises(ValueError, match=r"train.tsv:3: score is '5.5'") as error:
        read_splits(folder, STSB, (STSB.train,))
    assert "train.tsv:4: score is 'nan': it should be from 0 to 5" in str(error.value)
    folder = tmp_path / COLA.folder
    write_hub(folder, COLA, "test", samples(COLA, 4))
    (folder / "test-00000-of-00001.parquet").rename(folder / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet:1: label is -1: it should be one of 0, 1"):
        read_splits(folder, COLA, (COLA.train,))


def test_columns_that_are_not_there_are_named(tmp_path):
    folder = tmp_path / QQP.folder
    write_official(folder, QQP, "train", samples(QQP, 4))
    path = folder / "train.tsv"
    path.write_text(path.read_text().replace("question2", "q2").replace("is_duplicate", "dup"))
    with pytest.raises(ValueError, match="has no column question2, is_duplicate; its columns are"):
        read_splits(folder, QQP, (QQP.train,))
    folder = tmp_path / RTE.folder
    write_hub(folder, SST2, "train", samples(SST2, 4))
    with pytest.raises(ValueError, match="has no column sentence1, sentence2"):
        read_splits(folder, RTE, (RTE.train,))


@pytest.mark.parametrize("content", [b"", b"sentence\tlabel\n", b"PAR1 broken"])
def test_empty_and_damaged_files_are_named(tmp_path, content):
    folder = tmp_path / SST2.folder
    folder.mkdir(parents=True)
    name = "train.parquet" if content.startswith(b"PAR") else "train.tsv"
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}"):
        read_splits(folder, SST2, (SST2.train,))
    (folder / "train.tsv").write_bytes(b"sentence\tlabel\ngood\t1\n\xff\xfe bad\t0\nbad\t0\n")
    with pytest.raises(ValueError, match=r"train\.tsv:3: line is not UTF-8"):
        read_splits(folder, SST2, (SST2.train,))


def test_a_long_list_of_mistakes_is_counted(tmp_path):
    folder = tmp_path / SST2.folder
    folder.mkdir(parents=True)
    lines = [f"text {i}\t7" for i in range(50)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    with pytest.raises(ValueError, match="and 30 more"):
        read_splits(folder, SST2, (SST2.train,))


def test_the_suite_knows_all_eight_rows(tmp_path):
    names = ["MNLI", "COLA", "MRPC", "QQP", "SST-2", "QNLI", "RTE", "STS-B"]
    assert [task.rows[0][0] for task in NLP] == names
    assert [task.rows[0][1] for task in NLP] == [
        *("accuracy", "matthews", "f1", "f1"),
        *("accuracy", "accuracy", "accuracy", "pearson"),
    ]
    for task in NLP:
        assert task.missing(tmp_path / task.folder)
    assert head_of(MNLI, "dev_matched")[-1] == "gold_label"

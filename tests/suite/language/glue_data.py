"""GLUE's eight tasks in the formats that people have them in, made of a few small rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flava.suite.language.glue import COLA, MNLI, MRPC, QNLI, QQP, RTE, SST2, STSB, GlueTask


@dataclass(frozen=True)
class Sample:
    """Two texts (the second is not written where the task has one), and a class or a score."""

    first: str
    second: str
    target: Any


HEADS = {
    MNLI.name: "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse "
    "sentence1_parse sentence2_parse sentence1 sentence2",
    MRPC.name: "Quality|#1 ID|#2 ID|#1 String|#2 String",
    QQP.name: "id qid1 qid2 question1 question2 is_duplicate",
    SST2.name: "sentence label",
    QNLI.name: "index question sentence label",
    RTE.name: "index sentence1 sentence2 label",
    STSB.name: "index genre filename year old_index source1 source2 sentence1 sentence2 score",
}
TEST_HEADS = {
    MNLI.name: HEADS[MNLI.name],
    COLA.name: "index sentence",
    MRPC.name: "index|#1 ID|#2 ID|#1 String|#2 String",
    QQP.name: "id question1 question2",
    SST2.name: "index sentence",
    QNLI.name: "index question sentence",
    RTE.name: "index sentence1 sentence2",
    STSB.name: "index genre filename year old_index source1 source2 sentence1 sentence2",
}
HUB_TEXTS = {
    MNLI.name: ("premise", "hypothesis"),
    COLA.name: ("sentence",),
    SST2.name: ("sentence",),
    MRPC.name: ("sentence1", "sentence2"),
    RTE.name: ("sentence1", "sentence2"),
    STSB.name: ("sentence1", "sentence2"),
    QQP.name: ("question1", "question2"),
    QNLI.name: ("question", "sentence"),
}


def samples(task: GlueTask, count: int, start: int = 0) -> list[Sample]:
    """Rows whose class or score the first word tells; quotation marks are nothing but letters."""
    found = []
    for i in range(start, start + count):
        number = i % max(2, len(task.classes))
        word = ("awful", "great", "plain")[number]
        target: Any = task.classes[number] if task.classes else (i % 11) / 2
        found.append(Sample(f'{word} "film {i}', f"a second's text {i}", target))
    return found


def head_of(task: GlueTask, split: str) -> list[str]:
    text = TEST_HEADS[task.name] if split.startswith("test") else HEADS[task.name]
    names = text.split("|" if "|" in text else " ")
    if task.name == MNLI.name and not split.startswith("test"):
        labels = 5 if split.startswith("dev") else 1
        names += [f"label{i + 1}" for i in range(labels)] + ["gold_label"]
    return names


def official_lines(task: GlueTask, split: str, rows: Sequence[Sample]) -> list[str]:
    """The lines of GLUE's own TSV."""
    if task.name == COLA.name and not split.startswith("test"):
        return ["\t".join(["gj04", row.target, "", row.first]) for row in rows]
    head = head_of(task, split)
    lines = ["\t".join(head)]
    for number, row in enumerate(rows):
        texts = iter((row.first, row.second))
        cells = dict.fromkeys(head, "x")
        cells |= {name: str(number) for name in ("index", "id", "#1 ID") if name in head}
        cells["#2 ID"] = str(number + 1000)
        cells |= {name: str(row.target) for name in (task.official.label,) if name in head}
        columns = task.official.test_texts if split.startswith("test") else None
        cells |= {str(name): next(texts) for name in columns or task.official.texts}
        lines.append("\t".join(cells[name] for name in head))
    return lines


def write_official(folder: Path, task: GlueTask, split: str, rows: Sequence[Sample]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.tsv"
    path.write_text("\n".join(official_lines(task, split, rows)) + "\n", newline="")
    return path


def write_hub(
    folder: Path, task: GlueTask, split: str, rows: Sequence[Sample], shard: str = "-00000-of-00001"
) -> Path:
    """`datasets`' Parquet: classes by number, -1 in test splits."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {}
    for place, name in enumerate(HUB_TEXTS[task.name]):
        columns[name] = [(row.first, row.second)[place] for row in rows]
    if split.startswith("test"):
        columns["label"] = [-1 if task.classes else -1.0 for _ in rows]
    else:
        columns["label"] = [
            task.classes.index(row.target) if task.classes else row.target for row in rows
        ]
    columns["idx"] = pa.array(range(len(rows)), pa.int32())
    path = folder / f"{split}{shard}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def write_all(root: Path, task: GlueTask, *, hub: bool, train: int = 12, other: int = 6) -> Path:
    """All splits of a task; returns its folder."""
    folder = root / task.folder
    for split in (task.train, *task.validation, *task.test):
        rows = samples(task, train if split is task.train else other, start=len(split.name))
        if hub:
            write_hub(folder, task, split.hub, rows)
        else:
            write_official(folder, task, split.official, rows)
    return folder

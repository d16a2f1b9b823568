"""Which files a split of GLUE is in: GLUE's own TSV, or `datasets`' Parquet or JSON lines."""

import re
from dataclasses import dataclass
from pathlib import Path

from flava.evaluation.suite.nlp.glue import MRPC, Glue, Split

SHARD = re.compile(r"-(\d+)-of-(\d+)$")
"""The end of a shard's name, as `datasets` writes it."""

MSR_TRAIN, MSR_TEST, MSR_IDS = (
    "msr_paraphrase_train.txt",
    "msr_paraphrase_test.txt",
    "dev_ids.tsv",
)
"""MRPC as Microsoft gives it, and GLUE's list of the pairs in its development split."""


@dataclass(frozen=True)
class Files:
    """The files of a split in their order; none of them if it is not there."""

    paths: tuple[Path, ...] = ()
    hub: bool = False
    """Whether they have the columns of `datasets`, or GLUE's."""
    ids: Path | None = None
    """GLUE's list of MRPC's development pairs, where the file holds both splits."""


def located(folder: Path, task: Glue) -> Path:
    """The task's folder; or beside it the one that has the name of `datasets`."""
    beside = folder.with_name(task.name)
    return beside if not folder.is_dir() and beside.is_dir() else folder


def files_of(folder: Path, task: Glue, split: Split) -> Files:
    """The first form that is there of a split."""
    folder = located(folder, task)
    if (own := folder / f"{split.official}.tsv").is_file():
        return Files((own,))
    if task.name == MRPC.name and (found := msr_files(folder, split)):
        return found
    for ending in (".parquet", ".jsonl"):
        paths = [
            path
            for path in sorted(folder.glob(f"{split.hub}*{ending}"))
            if SHARD.sub("", path.stem) == split.hub
        ]
        if paths:
            return Files(tuple(paths), hub=True)
    return Files()


def msr_files(folder: Path, split: Split) -> Files | None:
    """Microsoft's file of a split, which is divided by a list of ids; None if it is not whole."""
    ids = folder / MSR_IDS
    whole = folder / (MSR_TEST if split.name == "test" else MSR_TRAIN)
    if not whole.is_file() or (split.name != "test" and not ids.is_file()):
        return None
    return Files((whole,), ids=None if split.name == "test" else ids)


def lacking(files: Files) -> list[str]:
    """The shards that a split lacks, by name: the others say how many there are."""
    found: list[str] = []
    for path in files.paths:
        if match := SHARD.search(path.stem):
            total, digits = int(match[2]), len(match[1])
            start = path.stem[: match.start()]
            names = {f"{start}-{i:0{digits}}-of-{match[2]}{path.suffix}" for i in range(total)}
            found += [str(path.with_name(each)) for each in names]
    there = {str(path) for path in files.paths}
    return sorted(set(found) - there)


def missing(folder: Path, task: Glue) -> list[str]:
    """What is not there of the splits that are needed; the test split is not."""
    found: list[str] = []
    for split in (task.train, *task.validation):
        files = files_of(folder, task, split)
        if not files.paths:
            others = f", or {split.hub}*.parquet or {split.hub}.jsonl of `datasets`"
            msr = f", or {MSR_TRAIN} with {MSR_IDS}" if task.name == MRPC.name else ""
            found.append(f"{folder / split.official}.tsv{msr}{others}")
        found += lacking(files)
    return found

"""GLUE's files to rows: where a split is, and what in it does not hold.

GLUE's TSV is no CSV: a quotation mark is a letter like any other, a cell ends at a tab and nowhere
else, and a line at a line feed (some texts hold U+0085 or U+2028, at which Python would cut them).
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flava.data.errors import SkippedSample
from flava.data.labelled import LabelledRow
from flava.data.tables import read_table, table_columns
from flava.suite.language.glue import HIGHEST_SCORE, MRPC, Glue, GlueColumns, GlueSplit

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


def files_of(folder: Path, task: Glue, split: GlueSplit) -> Files:
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


def msr_files(folder: Path, split: GlueSplit) -> Files | None:
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


SHOWN = 20
"""Mistakes of a file that an error lists; the rest is counted."""

Cells = dict[str | int, Any]


@dataclass
class Problems:
    """What does not hold of one file."""

    path: Path
    lines: list[str] = field(default_factory=list)

    def add(self, number: int, what: str) -> None:
        self.lines.append(f"{self.path}:{number}: {what}")

    def shown(self) -> list[str]:
        more = len(self.lines) - SHOWN
        return self.lines[:SHOWN] + ([f"{self.path}: and {more} more"] if more > 0 else [])


@dataclass(frozen=True)
class Read:
    """The rows of a split, and what does not hold of it, a line each."""

    rows: tuple[LabelledRow, ...]
    problems: tuple[str, ...]
    dropped: int = 0
    """Lines that are passed over, as `Glue.drops`."""


def read_splits(folder: Path, task: Glue, splits: Sequence[GlueSplit]) -> list[Read]:
    """The rows of some splits that are there.

    Raises:
        ValueError: anything of them does not hold; all of it in one error.
    """
    read = [read_split(folder, task, split) for split in splits]
    if problems := [line for each in read for line in each.problems]:
        raise ValueError(
            f"the data of {task.row} does not hold; correct it or get it anew:\n  "
            + "\n  ".join(problems)
        )
    return read


def read_split(folder: Path, task: Glue, split: GlueSplit) -> Read:
    """The rows of one split, each with its id, or its number from 0, as key."""
    files = files_of(folder, task, split)
    if gone := lacking(files):
        return Read((), tuple(f"{path}: file is missing" for path in gone))
    columns = task.hub if files.hub else task.official
    is_test = bool(split.submission)
    rows: list[LabelledRow] = []
    problems: list[str] = []
    dropped = 0
    for path in files.paths:
        found = Problems(path)
        cells = columns_cells(found, task, columns, is_test=is_test)
        for number, each in chosen(cells, files, split):
            if each is None:
                dropped += task.drops
                if not task.drops:
                    found.add(number, "line has not as many cells as the first one")
            elif row := row_of(each, number, len(rows), task, columns, found, is_test=is_test):
                rows.append(row)
        problems += found.shown()
    if not problems:
        problems += whole(files.paths[0], task, rows, is_test=is_test)
    return Read(tuple(rows), tuple(problems), dropped)


def columns_cells(
    problems: Problems, task: Glue, columns: GlueColumns, *, is_test: bool
) -> Iterator[tuple[int, Cells | None]]:
    """(line, cells) of a file; no cells where they are not as many as there are columns."""
    path = problems.path
    head = columns.head or is_test
    texts = columns.test_texts if is_test and columns.test_texts else columns.texts
    needed = [*texts, *([] if is_test else [columns.label])]
    needed += [] if columns.id is None else [columns.id]
    if path.suffix in (".parquet", ".jsonl"):
        names = table_columns(path) or []
        cells = records(problems, {str(name) for name in needed})
    else:
        lines = tsv_lines(problems)
        names = [str(cell) for cell in next(lines, (0, []))[1]] if head else []
        cells = tsv_cells(lines, names, task)
    if head and (absent := [str(name) for name in needed if name not in names]):
        told = ", ".join(names) or "none: it cannot be read, or is empty"
        problems.add(1, f"has no column {', '.join(absent)}; its columns are {told}")
        return iter(())
    return cells


def records(problems: Problems, wanted: set[str]) -> Iterator[tuple[int, Cells | None]]:
    """The records of Parquet or JSON lines."""
    for each in read_table(problems.path, wanted):
        if isinstance(each, SkippedSample):
            number = each.key.rpartition(":")[2]
            problems.add(int(number) if number.isdigit() else 1, each.message)
        else:
            yield each.number, {**each.cells}


def tsv_lines(problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, cells) of each line, without byte order mark and carriage return."""
    with problems.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.add(number, f"line is not UTF-8 ({error.reason})")
                continue
            yield number, text.removesuffix("\n").removesuffix("\r").split("\t")


def tsv_cells(
    lines: Iterator[tuple[int, list[str]]], names: Sequence[str], task: Glue
) -> Iterator[tuple[int, Cells | None]]:
    """The cells of each line by the names of the columns, or by place where they have none."""
    count = len(names)
    for number, line in lines:
        if line == [""]:
            if task.drops:
                yield number, None
            continue
        count = count or len(line)
        keys: Sequence[str | int] = names or range(count)
        yield number, dict(zip(keys, line, strict=True)) if len(line) == count else None


def chosen(
    cells: Iterator[tuple[int, Cells | None]], files: Files, split: GlueSplit
) -> Iterator[tuple[int, Cells | None]]:
    """Those of a split, where a file holds several."""
    if files.ids is None:
        yield from cells
        return
    lines = files.ids.read_text(encoding="utf-8").splitlines()
    development = {tuple(line.split("\t")[:2]) for line in lines}
    for number, each in cells:
        if each is None or ((each["#1 ID"], each["#2 ID"]) in development) == (
            split.name == "validation"
        ):
            yield number, each


def row_of(
    cells: Cells,
    number: int,
    count: int,
    task: Glue,
    columns: GlueColumns,
    problems: Problems,
    *,
    is_test: bool,
) -> LabelledRow | None:
    """A row; None if it does not hold, which is then among the problems."""
    names = columns.test_texts if is_test and columns.test_texts else columns.texts
    texts = [cells.get(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            problems.add(number, f"{name} is {text!r}: it should be a text")
            return None
    key = str(count if columns.id is None else cells.get(columns.id))
    row = LabelledRow(
        shard=f"{problems.path}:{number}",
        key=key,
        text=texts[0],
        second=texts[1] if len(texts) > 1 else None,
    )
    if is_test:
        return row
    return with_target(row, cells.get(columns.label), number, task, columns, problems)


def with_target(
    row: LabelledRow, cell: Any, number: int, task: Glue, columns: GlueColumns, problems: Problems
) -> LabelledRow | None:
    """The row with its class or its score in [0, 1]; None if that is out of range."""
    if task.classes:
        label = class_of(cell, task, columns)
        if label is None:
            known = ", ".join(task.classes)
            problems.add(number, f"{columns.label} is {cell!r}: it should be one of {known}")
            return None
        return replace(row, label=label)
    score = number_of(cell)
    if not 0 <= score <= HIGHEST_SCORE:
        problems.add(
            number, f"{columns.label} is {cell!r}: it should be from 0 to {HIGHEST_SCORE:g}"
        )
        return None
    # As fairseq's preprocess_GLUE_tasks.sh: the head's outputs stay near those of its first steps.
    return replace(row, score=score / HIGHEST_SCORE)


def class_of(cell: Any, task: Glue, columns: GlueColumns) -> str | None:
    """The class that a cell names: by its number in `datasets`' files, in GLUE's by its word."""
    if columns is task.hub and isinstance(cell, int) and not isinstance(cell, bool):
        return task.classes[cell] if 0 <= cell < len(task.classes) else None
    return cell if cell in task.classes else None


def number_of(cell: Any) -> float:
    """A number, or NaN, which is in no range."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def whole(path: Path, task: Glue, rows: Sequence[LabelledRow], *, is_test: bool) -> list[str]:
    """What does not hold of a split as a whole: no rows, ids that occur twice, empty classes."""
    if not rows:
        return [f"{path}: holds no rows"]
    found: list[str] = []
    twice = [key for key, count in Counter(row.key for row in rows).items() if count > 1]
    for key in twice[:SHOWN]:
        places = ", ".join(row.shard.rpartition(":")[2] for row in rows if row.key == key)
        found.append(f"{path}: id {key} occurs more than once, in lines {places}")
    if len(twice) > SHOWN:
        found.append(f"{path}: and {len(twice) - SHOWN} more such ids")
    if not is_test:
        have = {row.label for row in rows}
        found += [f"{path}: no row is of class {name}" for name in task.classes if name not in have]
    return found

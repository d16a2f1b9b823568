"""GLUE's files to rows: finds a split in the forms it is published in, and checks its content.

GLUE's TSV is not CSV: a quotation mark is a letter like any other, a cell ends at tabs only, and a
line at line feeds only (some texts hold U+0085 or U+2028, where Python would split them).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flava.data.errors import SkippedSample
from flava.data.labelled import LabelledRow
from flava.data.tables import read_table, table_columns
from flava.suite.data_mistakes import raise_mistakes, shortened
from flava.suite.language.glue import HIGHEST_SCORE, MRPC, GlueColumns, GlueSplit, GlueTask

SHARD = re.compile(r"-(\d+)-of-(\d+)$")
"""The end of a shard's name, as `datasets` writes it."""

MSR_TRAIN, MSR_TEST, MSR_IDS = (
    "msr_paraphrase_train.txt",
    "msr_paraphrase_test.txt",
    "dev_ids.tsv",
)
"""MRPC as Microsoft publishes it, and GLUE's list of the pairs in its development split."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split in their order; none if the split is not there."""

    paths: tuple[Path, ...] = ()
    hub: bool = False
    """Whether they have the columns of `datasets`, not GLUE's."""
    ids: Path | None = None
    """GLUE's list of MRPC's development pairs, where one file holds both splits."""


def files_of(folder: Path, task: GlueTask, split: GlueSplit) -> SplitFiles:
    """The files of a split: those of the first form that is there.

    Args:
        folder: The task's, or else the one beside it that has the name of `datasets`.
    """
    beside = folder.with_name(task.name)
    if not folder.is_dir() and beside.is_dir():
        folder = beside
    if (official := folder / f"{split.official}.tsv").is_file():
        return SplitFiles((official,))
    if task.name == MRPC.name and (files := _msr_files(folder, split)):
        return files
    for ending in (".parquet", ".jsonl"):
        paths = [
            path
            for path in sorted(folder.glob(f"{split.hub}*{ending}"))
            if SHARD.sub("", path.stem) == split.hub
        ]
        if paths:
            return SplitFiles(tuple(paths), hub=True)
    return SplitFiles()


def _msr_files(folder: Path, split: GlueSplit) -> SplitFiles | None:
    """Microsoft's file of a split of MRPC; None if it, or the list of ids, is missing.

    Microsoft's training file holds GLUE's development split too.
    """
    is_test = split.name == "test"
    path, ids = folder / (MSR_TEST if is_test else MSR_TRAIN), folder / MSR_IDS
    if not path.is_file() or not (is_test or ids.is_file()):
        return None
    return SplitFiles((path,), ids=None if is_test else ids)


def _missing_shards(files: SplitFiles) -> list[str]:
    """The shards that a split lacks: the names of the others tell how many there are."""
    all_shards: set[str] = set()
    for path in files.paths:
        if match := SHARD.search(path.stem):
            total, digits = int(match[2]), len(match[1])
            start = path.stem[: match.start()]
            names = (f"{start}-{i:0{digits}}-of-{match[2]}{path.suffix}" for i in range(total))
            all_shards.update(str(path.with_name(name)) for name in names)
    return sorted(all_shards - {str(path) for path in files.paths})


def missing(folder: Path, task: GlueTask) -> list[str]:
    """The files that are missing, a line each; those of the test split are not needed."""
    lines: list[str] = []
    for split in (task.train, *task.validation):
        files = files_of(folder, task, split)
        if not files.paths:
            others = f", or {split.hub}*.parquet or {split.hub}.jsonl of `datasets`"
            msr = f", or {MSR_TRAIN} with {MSR_IDS}" if task.name == MRPC.name else ""
            lines.append(f"{folder / split.official}.tsv{msr}{others}")
        lines += _missing_shards(files)
    return lines


Cells = dict[str | int, Any]
"""The cells of a line by the names of their columns, or by place if these have no names."""

NumberedCells = tuple[int, Cells | None]
"""(number from 1, cells); None for cells if there are more or fewer of them than columns."""


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split, and its mistakes, a line each."""

    rows: tuple[LabelledRow, ...]
    mistakes: tuple[str, ...]
    dropped: int = 0
    """Broken lines that were skipped, see `GlueTask.drops_broken_lines`."""


def read_splits(folder: Path, task: GlueTask, splits: Sequence[GlueSplit]) -> list[SplitRows]:
    """The rows of some splits that are there.

    Raises:
        ValueError: anything in their files is wrong; all of it in one error.
    """
    read = [_read_split(folder, task, split) for split in splits]
    raise_mistakes(
        f"the data of {task.row}",
        [line for each in read for line in each.mistakes],
        "Correct it, or get it anew.",
    )
    return read


def _read_split(folder: Path, task: GlueTask, split: GlueSplit) -> SplitRows:
    """The rows of one split; their keys are their ids, or their numbers from 0."""
    files = files_of(folder, task, split)
    if lost := _missing_shards(files):
        return SplitRows((), tuple(f"{path}: file is missing" for path in lost))
    columns = task.hub if files.hub else task.official
    is_test = bool(split.submission)
    rows: list[LabelledRow] = []
    mistakes: list[str] = []
    dropped = 0
    for path in files.paths:
        of_file: list[str] = []
        lines = _read_lines(path, task, columns, of_file, is_test=is_test)
        for number, cells in _lines_of_split(lines, files.ids, split):
            if cells is None and task.drops_broken_lines:
                dropped += 1
                continue
            where = f"{path}:{number}"
            try:
                rows.append(_row_of(cells, where, len(rows), task, columns, is_test=is_test))
            except ValueError as error:
                of_file.append(f"{where}: {error}")
        mistakes += shortened(of_file)
    if not mistakes:
        mistakes = _split_mistakes(files.paths[0], task, rows, is_test=is_test)
    return SplitRows(tuple(rows), tuple(mistakes), dropped)


def _read_lines(
    path: Path, task: GlueTask, columns: GlueColumns, mistakes: list[str], *, is_test: bool
) -> Iterator[NumberedCells]:
    """The lines of a file after its head; what cannot be read is added to the mistakes."""
    has_head = columns.head or is_test
    needed = [*columns.texts_of(is_test=is_test), *([] if is_test else [columns.label])]
    needed += [] if columns.id is None else [columns.id]
    if path.suffix in (".parquet", ".jsonl"):
        names = table_columns(path) or []
        lines = _table_lines(path, {str(name) for name in needed}, mistakes)
    else:
        split_lines = _tsv_lines(path, mistakes)
        names = [str(cell) for cell in next(split_lines, (0, []))[1]] if has_head else []
        lines = _named_cells(split_lines, names, task)
    if has_head and (absent := [str(name) for name in needed if name not in names]):
        have = ", ".join(names) or "none: it cannot be read, or is empty"
        mistakes.append(f"{path}:1: has no column {', '.join(absent)}; its columns are {have}")
        return iter(())
    return lines


def _table_lines(path: Path, wanted: set[str], mistakes: list[str]) -> Iterator[NumberedCells]:
    """The records of Parquet or JSON lines."""
    for record in read_table(path, wanted):
        if isinstance(record, SkippedSample):
            number = record.key.rpartition(":")[2]
            mistakes.append(f"{path}:{number if number.isdigit() else 1}: {record.message}")
        else:
            yield record.number, {**record.cells}


def _tsv_lines(path: Path, mistakes: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, cells) of each line, without byte order mark and carriage return."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                mistakes.append(f"{path}:{number}: line is not UTF-8 ({error.reason})")
                continue
            yield number, text.removesuffix("\n").removesuffix("\r").split("\t")


def _named_cells(
    lines: Iterator[tuple[int, list[str]]], names: Sequence[str], task: GlueTask
) -> Iterator[NumberedCells]:
    """The same lines with the columns' names; empty ones count as broken only where those do."""
    count = len(names)
    for number, cells in lines:
        if cells == [""]:
            if task.drops_broken_lines:
                yield number, None
            continue
        count = count or len(cells)
        keys: Sequence[str | int] = names or range(count)
        yield number, dict(zip(keys, cells, strict=True)) if len(cells) == count else None


def _lines_of_split(
    lines: Iterator[NumberedCells], ids: Path | None, split: GlueSplit
) -> Iterator[NumberedCells]:
    """The lines of a split: all but where a list of ids divides MRPC's file of two splits."""
    if ids is None:
        yield from lines
        return
    pairs = ids.read_text(encoding="utf-8").splitlines()
    development = {tuple(pair.split("\t")[:2]) for pair in pairs}
    for number, cells in lines:
        if cells is None or ((cells["#1 ID"], cells["#2 ID"]) in development) == (
            split.name == "validation"
        ):
            yield number, cells


def _row_of(
    cells: Cells | None,
    where: str,
    place: int,
    task: GlueTask,
    columns: GlueColumns,
    *,
    is_test: bool,
) -> LabelledRow:
    """A row with its class or, of STS-B, its score in [0, 1]; a test row has neither.

    Args:
        where: The file and line.
        place: How many rows are before it: its key if it has no id.

    Raises:
        ValueError: the line is broken, a text is no text, or the class or score is out of range.
    """
    if cells is None:
        raise ValueError("line has not as many cells as the first one")
    names = columns.texts_of(is_test=is_test)
    texts = [cells.get(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}: it should be a text")
    row = LabelledRow(
        shard=where,
        key=str(place if columns.id is None else cells.get(columns.id)),
        text=texts[0],
        second=texts[1] if len(texts) > 1 else None,
    )
    if is_test:
        return row
    cell = cells.get(columns.label)
    if task.classes:
        return replace(row, label=_class_of(cell, task, columns))
    score = _number_of(cell)
    if not 0 <= score <= HIGHEST_SCORE:
        raise ValueError(f"{columns.label} is {cell!r}: it should be from 0 to {HIGHEST_SCORE:g}")
    # As fairseq's preprocess_GLUE_tasks.sh: the head's outputs stay near those of its first steps.
    return replace(row, score=score / HIGHEST_SCORE)


def _class_of(cell: Any, task: GlueTask, columns: GlueColumns) -> str:
    """The class that a cell names: a number in `datasets`' files, a word in GLUE's.

    Raises:
        ValueError: it names none.
    """
    if columns is task.hub and isinstance(cell, int) and not isinstance(cell, bool):
        if 0 <= cell < len(task.classes):
            return task.classes[cell]
    elif cell in task.classes:
        return cell
    known = ", ".join(task.classes)
    raise ValueError(f"{columns.label} is {cell!r}: it should be one of {known}")


def _number_of(cell: Any) -> float:
    """The number in a cell, or NaN, which is in no range."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _split_mistakes(
    path: Path, task: GlueTask, rows: Sequence[LabelledRow], *, is_test: bool
) -> list[str]:
    """What is wrong with a split as a whole: it has no rows, repeats ids, or lacks a class."""
    if not rows:
        return [f"{path}: holds no rows"]
    places: dict[str, list[str]] = {}
    for row in rows:
        places.setdefault(row.key, []).append(row.shard.rpartition(":")[2])
    mistakes = shortened(
        [
            f"{path}: id {key} occurs more than once, in lines {', '.join(lines)}"
            for key, lines in places.items()
            if len(lines) > 1
        ]
    )
    if not is_test:
        classes = {row.label for row in rows}
        mistakes += [
            f"{path}: no row is of class {name}" for name in task.classes if name not in classes
        ]
    return mistakes

"""Users' labelled data, read from a folder with a subfolder for each class, or from a table.

Whether images, texts or pairs of both are classified follows from the data. A sample that cannot be
used is left out and reported by name; a mistake in the data as a whole is an error.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from flava.core.batch import Kind
from flava.data.decoding import IMAGE_SUFFIXES
from flava.data.errors import SampleError, SkippedSample
from flava.data.samples import skip_sample, usable_text
from flava.data.skips import SkipCounter
from flava.data.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TABLE_READERS,
    TEXT_COLUMNS,
    is_table,
    read_table,
    table_columns,
)

TEXT_SUFFIX = ".txt"
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test"}
"""Subfolders of these names alone are splits, not classes."""

KINDS: dict[tuple[bool, bool], Kind] = {
    (True, False): "images",
    (False, True): "text",
    (True, True): "pairs",
}
"""(has an image, has a text) -> the kind of the sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledRow:
    """A sample before decoding. ``image`` is a file's path, or a file's bytes.

    What is to be predicted is one of three: ``label``, a class's name; ``score``, a number; or
    ``answers``, classes' names with the share in [0, 1] that each is right.
    """

    shard: str
    key: str
    image: Path | bytes | None = None
    text: str | None = None
    second: str | None = None
    """A second text, for tasks on pairs of sentences."""
    label: str | None = None
    score: float | None = None
    answers: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """All usable samples of one kind, in the order of the source, and what was left out."""

    kind: Kind
    rows: tuple[LabelledRow, ...]
    skips: SkipCounter

    @property
    def labels(self) -> list[str]:
        """The class of each row."""
        return [row.label or "" for row in self.rows]

    @property
    def digest(self) -> str:
        """A hash of the rows' keys and labels in order, which tells data sets apart."""
        lines = "".join(f"{row.key}\0{row.label}\n" for row in self.rows)
        return hashlib.sha256(lines.encode(errors="replace")).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)


def read_rows(path: Path, *, labelled: bool = True) -> LabelledRows:
    """The samples of a folder or a table.

    A folder has a subfolder for each class, and at any depth within it images
    (``decoding.IMAGE_SUFFIXES``), texts (.txt), or both under one name. A table (CSV, TSV, JSON
    lines, Parquet) has a column for images (paths from the table's folder on; or, in Parquet,
    files' bytes), one for texts, or both, and one for labels; ``flava.data.tables`` lists the names
    that they may have. Without labels the folder's own files count, and no labels are needed.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: it is no such folder or table, or most of its samples cannot be used.
    """
    if path.is_dir():
        found = list(_folder_rows(path) if labelled else _unlabelled_rows(path))
    elif not path.exists():
        raise FileNotFoundError(f"no data at {path}: give a folder or a table")
    elif is_table(path) and path.suffix != ".txt":
        found = list(_table_rows(path, labelled=labelled))
    else:
        known = ", ".join(ending for ending in TABLE_READERS if ending != ".txt")
        raise ValueError(f"{path} is no table that can be read: it must end in {known}")
    return _rows_of_commonest_kind(path, found)


def _rows_of_commonest_kind(
    path: Path, found: Sequence[LabelledRow | SkippedSample]
) -> LabelledRows:
    """The rows as samples of the commonest kind.

    Rows that lack an image or a text for it are left out; what rows have beyond it is dropped.

    Raises:
        ValueError: no row can be used, or most of them cannot.
    """
    skips = SkipCounter(str(path), str(path), "correct the data, or leave these out of it")
    rows = [row for row in found if isinstance(row, LabelledRow)]
    has = Counter((row.image is not None, row.text is not None) for row in rows)
    if not has:
        skips.add(len(found), [each for each in found if isinstance(each, SkippedSample)])
        raise skips.failure() if found else _no_samples(path)
    image, text = has.most_common(1)[0][0]
    kept: list[LabelledRow] = []
    skipped: list[SkippedSample] = []
    for each in found:
        if isinstance(each, SkippedSample):
            skipped.append(each)
        elif (image and each.image is None) or (text and each.text is None):
            lacking = "image" if image and each.image is None else "text"
            error = SampleError(f"sample has no {lacking}", f"the others of {path} have one")
            skipped.append(skip_sample(each, error))
        else:
            one = replace(each, image=each.image if image else None)
            kept.append(replace(one, text=one.text if text else None))
    skips.add(len(found), skipped)
    if len(skipped) > len(kept):
        raise skips.failure()
    return LabelledRows(kind=KINDS[image, text], rows=tuple(kept), skips=skips)


def _no_samples(path: Path) -> ValueError:
    return ValueError(f"{path} holds no sample: give a folder or a table with some")


# Folders


def _folder_rows(folder: Path) -> Iterator[LabelledRow | SkippedSample]:
    """Rows of the subfolders, whose names are the classes.

    Raises:
        ValueError: there are no subfolders, or they are splits.
    """
    inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    classes = [each for each in inside if each.is_dir()]
    if not classes:
        raise ValueError(f"{folder} has no subfolders: put the samples of each class into one")
    if {each.name.lower() for each in classes} <= SPLIT_NAMES:
        names = ", ".join(each.name for each in classes)
        raise ValueError(
            f"the subfolders of {folder} are splits, not classes ({names}): give one of them with "
            f"--data, and the one to validate on with --validation"
        )
    for each in inside:
        if each in classes:
            yield from _samples_below(each, label=each.name)
        else:
            yield _skipped_file(folder, each, "file is in no class's folder")


def _unlabelled_rows(folder: Path) -> Iterator[LabelledRow | SkippedSample]:
    """Rows of everything below a folder."""
    return _samples_below(folder, label=None)


def _samples_below(folder: Path, label: str | None) -> Iterator[LabelledRow | SkippedSample]:
    """Rows of the files below a folder; files of one name but for the ending are one sample."""
    root = folder if label is None else folder.parent
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts)
    ]
    stems = groupby(sorted(files, key=lambda path: (str(path.with_suffix("")), path.name)), _stem)
    for name, group in stems:
        by_suffix = {path.suffix.lower(): path for path in group}
        images = [by_suffix[suffix] for suffix in IMAGE_SUFFIXES if suffix in by_suffix]
        text = by_suffix.get(TEXT_SUFFIX)
        if not images and text is None:
            for path in by_suffix.values():
                yield _skipped_file(root, path, "file is neither image nor text")
            continue
        key = Path(name).relative_to(root).as_posix()
        # Two images may share a name: each is a sample, under its whole name.
        for image in images or [None]:
            name = key if image is None or len(images) == 1 else key + image.suffix
            row = LabelledRow(shard=str(root), key=name, image=image, label=label)
            yield row if text is None else _with_text(row, text)


def _stem(path: Path) -> str:
    return str(path.with_suffix(""))


def _with_text(row: LabelledRow, path: Path) -> LabelledRow | SkippedSample:
    try:
        return replace(row, text=usable_text(path.read_bytes()))
    except SampleError as error:
        return skip_sample(row, error)
    except OSError as error:
        return skip_sample(row, SampleError("file cannot be read", str(error.strerror)))


def _skipped_file(root: Path, path: Path, reason: str) -> SkippedSample:
    name = path.relative_to(root).as_posix()
    return SkippedSample(shard=str(root), key=name, reason=reason, message=reason)


# Tables


def _table_rows(path: Path, *, labelled: bool) -> Iterator[LabelledRow | SkippedSample]:
    """Rows of a table.

    Raises:
        ValueError: columns are missing; all of them in one error.
    """
    columns = table_columns(path)
    # A table without a readable head is reported by the reader, in its first record.
    missing = [] if columns is None else _missing_columns(columns, labelled=labelled)
    if columns and missing:
        raise ValueError(
            f"{path} has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(columns)}: rename or add them. Columns of images are called "
            f"{' or '.join(IMAGE_COLUMNS)}, those of texts {' or '.join(TEXT_COLUMNS)}"
        )
    for record in read_table(path, IMAGE_COLUMNS + TEXT_COLUMNS + LABEL_COLUMNS):
        if isinstance(record, SkippedSample):
            yield record
            continue
        row = LabelledRow(shard=str(path), key=f"{path.name}:{record.number}")
        try:
            yield replace(
                row,
                image=_image_cell(record.find(IMAGE_COLUMNS), path.parent),
                text=_text_cell(record.find(TEXT_COLUMNS)),
                label=_label_cell(record.find(LABEL_COLUMNS)) if labelled else None,
            )
        except SampleError as error:
            yield skip_sample(row, error)


def _missing_columns(columns: Sequence[str], *, labelled: bool) -> list[str]:
    """The columns that a table lacks, as they stand in an error."""
    names = set(columns)
    missing = [] if names & {*IMAGE_COLUMNS, *TEXT_COLUMNS} else ['"image" or "text"']
    return missing + (['"label"'] if labelled and not names & set(LABEL_COLUMNS) else [])


def _image_cell(cell: Any, folder: Path) -> Path | bytes | None:
    """A path; or a file's bytes, alone or as Hugging Face's ``datasets`` stores them."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell in ("", b""):
        return None
    if isinstance(cell, bytes):
        return cell
    if not isinstance(cell, str):
        raise SampleError("image is neither a path nor bytes", f"a {type(cell).__name__}")
    path = folder / usable_text(cell, "image").strip()
    if not path.is_file():
        raise SampleError("image is missing", f"no file {path}")
    return path


def _text_cell(cell: Any) -> str | None:
    """A text; of several captions the first."""
    if isinstance(cell, list) and cell:
        cell = cell[0]
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):
        raise SampleError("text is no text", f"a {type(cell).__name__}")
    return usable_text(cell)


def _label_cell(cell: Any) -> str:
    """A class's name: any text or number, without white space around it."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # what a column of integers becomes where one is missing
    if cell is None or cell != cell or not str(cell).strip():
        raise SampleError("label is missing")
    if not isinstance(cell, str | int | float):
        raise SampleError("label is neither text nor number", f"a {type(cell).__name__}")
    return usable_text(str(cell).strip(), "label")


# Splits


def class_names(rows: LabelledRows) -> tuple[str, ...]:
    """The classes that occur, sorted as strings: `ImageFolder`'s order."""
    return tuple(sorted(set(rows.labels)))


def split(rows: LabelledRows, fraction: float, seed: int) -> tuple[LabelledRows, LabelledRows]:
    """Training rows, and validation rows drawn by ``draw_validation``; both keep the order."""
    chosen = draw_validation(rows.rows, fraction, seed)
    parts: tuple[list[LabelledRow], list[LabelledRow]] = ([], [])
    for index, row in enumerate(rows.rows):
        parts[index in chosen].append(row)
    return replace(rows, rows=tuple(parts[0])), replace(rows, rows=tuple(parts[1]))


def draw_validation(rows: Sequence[LabelledRow], fraction: float, seed: int) -> set[int]:
    """The indices of the rows that validate: of each class the same share, drawn by the seed.

    Of n rows of a class, ``fraction`` times n are drawn, rounded; but of two or more at least one
    is drawn and one stays, and a single row stays. Rows are drawn in the order of a hash of the
    seed and their keys: the order of the rows changes nothing, and new rows change little.
    """
    members: dict[str | None, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.label, []).append(index)
    chosen: set[int] = set()
    for indices in members.values():
        count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        chosen.update(sorted(indices, key=lambda i: _draw_order(seed, rows[i].key))[:count])
    return chosen


def _draw_order(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0split\0{key}".encode(errors="replace")).digest()


def rows_digest(rows: Sequence[LabelledRow]) -> str:
    """A hash of the rows' content and targets, in order; of image files it takes name and size."""
    digest = hashlib.sha256()
    for row in rows:
        image = row.image
        if isinstance(image, Path):
            image = (image.name, image.stat().st_size if image.is_file() else None)
        content = (row.key, row.text, row.second, row.label, row.score, row.answers, image)
        digest.update(repr(content).encode(errors="replace"))
    return digest.hexdigest()[:16]

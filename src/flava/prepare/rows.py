"""Published annotation files of any length, read an entry at a time and turned into rows.

What cannot be read comes out as ``SkippedSample``, in its place. `flava.data.tables` reads users'
tables, and what both need is there: opening, decoding, parsing. What is here are the forms of
publishers that are no such tables: TSV without a header, in which a quote is a character like any
other (Conceptual Captions, YFCC100M), lines that end at a new line alone (WIT), an array within one
large JSON.
"""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flava.data.errors import SampleError, SkippedSample
from flava.data.tables import (
    UNREADABLE,
    csv_rows,
    decoded_line,
    opened,
    parsed_json,
    skip_record,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationRow:
    """A pair, an image alone (no caption) or a text alone (no image)."""

    location: str
    """FILE:ROW, for messages."""
    captions: tuple[Any, ...] = ()
    """Texts, of which the first that passes the filters is taken."""
    names: tuple[str, ...] = ()
    """Paths below the folder of images, which are tried in turn."""
    url: str | None = None
    """Where the image was published."""
    data: bytes | None = field(default=None, repr=False)
    """The image's file, if the annotations hold it."""
    box: tuple[int, int, int, int] | None = None
    """The part of the image that belongs to the caption: left, top, width, height in pixels."""
    licence: str | None = None
    """The image's licence, as its publisher writes it; None if the source has one for all."""
    fields: tuple[tuple[str, Any], ...] = ()
    """What is kept in the sample's JSON beside the caption."""

    @property
    def identity(self) -> str:
        """The same for all rows of one image."""
        return self.url or next(iter(self.names), self.location)


RowOrSkipped = AnnotationRow | SkippedSample
Numbered = tuple[int, Any]
"""The number of an entry in its file, from 1, and its content."""
RowMaker = Callable[[Any, str], Iterable[AnnotationRow]]
"""An entry's content and location -> its rows."""
AnnotationReader = Callable[[Sequence[Path]], Iterator[RowOrSkipped]]
"""Files of annotations -> their rows."""


def rows_of(
    path: Path, entries: Iterable[Numbered | SkippedSample], make: RowMaker
) -> Iterator[RowOrSkipped]:
    """The rows of a file's entries, with a ``SkippedSample`` in the place of what cannot be
    read."""
    for entry in entries:
        if isinstance(entry, SkippedSample):
            yield entry
            continue
        number, content = entry
        try:
            yield from make(content, f"{path.name}:{number}")
        except SampleError as error:
            yield skip_record(path, number, error)
        except KeyError as error:
            yield skip_record(path, number, SampleError("field is missing", str(error)))
        except (TypeError, ValueError, AttributeError) as error:
            yield skip_record(path, number, SampleError("field is malformed", str(error)))


Entries = Iterator[Numbered | SkippedSample]


def text_lines(path: Path) -> Entries:
    """Lines as texts without their end, which is "\\n" or "\\r\\n" and nothing else.

    Bytes that are no UTF-8 stand in them as lone surrogates.
    """
    number = 0
    try:
        with opened(path) as (stream, _):
            for number, line in enumerate(stream, 1):
                yield number, decoded_line(line, number).removesuffix("\n").removesuffix("\r")
    except UNREADABLE as error:
        yield skip_record(path, number + 1, SampleError("annotations cannot be read", str(error)))


def tab_rows(path: Path, widths: Collection[int]) -> Entries:
    """Lines cut at their tabs; a quote is a character like any other.

    Args:
        widths: The numbers of cells that a line may have.
    """
    for entry in text_lines(path):
        if isinstance(entry, SkippedSample):
            yield entry
            continue
        number, line = entry
        cells = line.split("\t")
        if len(cells) in widths:
            yield number, cells
        elif line.strip():
            allowed = " or ".join(map(str, widths))
            detail = f"{len(cells)} cells, and {allowed} are expected"
            yield skip_record(path, number, SampleError("row does not fit the columns", detail))


def quoted_rows(path: Path, needed: Collection[str]) -> Entries:
    """Rows of a tab-separated file with a header and with quotes, as {column: cell}.

    Raises:
        ValueError: the header lacks a column that is needed.
    """
    skipped: list[SkippedSample] = []
    rows = csv_rows(_lines_for_csv(path, skipped), "\t")
    _, header = next(rows, (0, []))
    if isinstance(header, csv.Error):
        header = []
    if missing := [name for name in needed if name not in header]:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; its first line has {len(header)} cells: "
            f"{', '.join(header)[:200]}. Give the file as it is published"
        )
    for number, cells in rows:
        if isinstance(cells, csv.Error):
            yield skip_record(path, number, SampleError("row is malformed", str(cells)))
        elif len(cells) == len(header):
            yield number, dict(zip(header, cells, strict=True))
        elif cells:
            detail = f"{len(cells)} cells, and {len(header)} in the first line"
            yield skip_record(path, number, SampleError("row does not fit the columns", detail))
    yield from skipped


def _lines_for_csv(path: Path, skipped: list[SkippedSample]) -> Iterator[str]:
    """The lines with their ends; reports on what cannot be read are appended to ``skipped``."""
    for entry in text_lines(path):
        if isinstance(entry, SkippedSample):
            skipped.append(entry)
        else:
            yield f"{entry[1]}\n"


def json_lines(path: Path) -> Entries:
    """A JSON value a line; empty lines are passed over."""
    for entry in text_lines(path):
        if isinstance(entry, SkippedSample):
            yield entry
            continue
        number, line = entry
        if line.strip():
            try:
                yield number, parsed_json(line)
            except SampleError as error:
                yield skip_record(path, number, error)


def json_items(path: Path, prefix: str) -> Entries:
    """The items of an array in one large JSON, without holding more than one of them.

    Args:
        prefix: Where they are, as ijson writes it: "annotations.item".
    """
    import ijson  # of the extra "data", as is all that is imported where it is used

    number = 0
    try:
        with opened(path) as (stream, _):
            items: Iterator[Any] = ijson.items(stream, prefix, use_float=True)
            for number, item in enumerate(items, 1):
                yield number, item
    except (ijson.JSONError, UnicodeDecodeError, *UNREADABLE) as error:
        detail = f"{error}; what follows is lost"
        yield skip_record(path, number + 1, SampleError("json cannot be decoded", detail))

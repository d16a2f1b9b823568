"""Files of annotations of any length, read an entry at a time and turned into rows.

What cannot be read comes out as ``SkippedSample``, in its place.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from flava.data.errors import SampleError, SkippedSample


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationRow:
    """A pair, an image alone (no caption) or a text alone (no image)."""

    place: str
    """FILE:ROW, for messages."""
    captions: tuple[Any, ...] = ()
    """Texts to try in turn: the first that passes the filters is taken."""
    names: tuple[str, ...] = ()
    """Where the image may be below the folder of images, tried in turn."""
    url: str | None = None
    """Where the image was published."""
    data: bytes | None = field(default=None, repr=False)
    """The image's file, where the annotations hold it."""
    box: tuple[int, int, int, int] | None = None
    """The part of the image that is meant: left, top, width, height in pixels."""
    licence: str | None = None
    """Of the image, as its publisher writes it; None where the source has one for all."""
    fields: tuple[tuple[str, Any], ...] = ()
    """What else is kept beside the caption."""

    @property
    def identity(self) -> str:
        """The same for all rows of one image."""
        return self.url or next(iter(self.names), self.place)


RowOrSkipped = AnnotationRow | SkippedSample
Numbered = tuple[int, Any]
"""An entry of a file, and its number there, from 1."""
Make = Callable[[Any, str], Iterable[AnnotationRow]]
"""An entry and its place -> its rows."""
RowReader = Callable[[Sequence[Path]], Iterator[RowOrSkipped]]
"""Files of annotations -> their rows."""


def rows_of(
    path: Path, entries: Iterable[Numbered | SkippedSample], make: Make
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
            yield skip(path, number, error)
        except KeyError as error:
            yield skip(path, number, SampleError("field is missing", str(error)))
        except (TypeError, ValueError, AttributeError) as error:
            yield skip(path, number, SampleError("field is malformed", str(error)))


def skip(path: Path, number: int | None, error: SampleError) -> SkippedSample:
    """A report on an entry, or on what follows in a file."""
    place = path.name if number is None else f"{path.name}:{number}"
    return SkippedSample(shard=str(path), key=place, reason=error.reason, message=str(error))


LONGEST_CELL = 2**24
"""Bytes: WIT holds whole sections of articles; the csv module stops at 2**17 by itself."""

Entries = Iterator[Numbered | SkippedSample]


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if its name ends in .gz."""
    with path.open("rb") as raw:
        yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


def lines(path: Path) -> Entries:
    """Lines as texts without their end, which is "\\n" or "\\r\\n" and nothing else.

    Bytes that are no UTF-8 stand in them as lone surrogates.
    """
    number = 0
    try:
        with opened(path) as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except (OSError, EOFError, zlib.error) as error:
        yield skip(path, number + 1, SampleError("annotations cannot be read", str(error)))


def tab_rows(path: Path, widths: Collection[int]) -> Entries:
    """Lines cut at their tabs; a quote is a character like any other.

    Args:
        widths: The numbers of cells that a line may have.
    """
    for entry in lines(path):
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
            yield skip(path, number, SampleError("row does not fit the columns", detail))


def quoted_rows(path: Path, needed: Collection[str]) -> Entries:
    """Rows of a tab-separated file with a header and with quotes, as {column: cell}.

    Raises:
        ValueError: the header lacks a column that is needed.
    """
    csv.field_size_limit(LONGEST_CELL)
    broken: list[SkippedSample] = []
    rows = csv.reader(readable(path, broken), delimiter="\t")
    header = next(rows, [])
    if missing := [name for name in needed if name not in header]:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; its first line has {len(header)} cells: "
            f"{', '.join(header)[:200]}. Give the file as it is published"
        )
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield skip(path, rows.line_num, SampleError("row is malformed", str(error)))
            continue
        if cells is None:
            yield from broken
            return
        if len(cells) == len(header):
            yield rows.line_num, dict(zip(header, cells, strict=True))
        elif cells:
            detail = f"{len(cells)} cells, and {len(header)} in the first line"
            yield skip(path, rows.line_num, SampleError("row does not fit the columns", detail))


def readable(path: Path, broken: list[SkippedSample]) -> Iterator[str]:
    """The lines with their ends; what cannot be read is put aside."""
    for entry in lines(path):
        if isinstance(entry, SkippedSample):
            broken.append(entry)
        else:
            yield f"{entry[1]}\n"


def json_lines(path: Path) -> Entries:
    """A JSON value a line; empty lines are passed over."""
    for entry in lines(path):
        if isinstance(entry, SkippedSample):
            yield entry
            continue
        number, line = entry
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield skip(path, number, SampleError("json cannot be decoded", str(error)))


def json_items(path: Path, prefix: str) -> Entries:
    """The items of an array in one large JSON, without holding more than one of them.

    Args:
        prefix: Where they are, as ijson writes it: "annotations.item".
    """
    import ijson  # of the extra "data", as is all that is imported where it is used

    number = 0
    try:
        with opened(path) as stream:
            items: Iterator[Any] = ijson.items(stream, prefix, use_float=True)
            for number, item in enumerate(items, 1):
                yield number, item
    except (ijson.JSONError, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        detail = f"{error}; what follows is lost"
        yield skip(path, number + 1, SampleError("json cannot be decoded", detail))

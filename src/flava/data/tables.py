"""Tables of any length, a record at a time: CSV, TSV, JSON lines, Parquet, and plain lines.

All commands read their tables here, so that they know the same columns by the same names. What
cannot be read comes out as ``SkippedSample``, in its place, as for shards.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from flava.data.errors import SampleError, SkippedSample

IMAGE_COLUMNS = ("image", "path", "file")
"""Names of the column that holds an image: its path, or its file's bytes. Of the columns of each
group the first that a record has is read."""
TEXT_COLUMNS = ("text", "caption", "captions", "content", "maintext")
"""Names of the column that holds a text, or a list of captions; "content" and "maintext" are those
of news-please's files, from which CCNews is made."""
LABEL_COLUMNS = ("label",)
"""Names of the column that holds a class."""
URL_COLUMNS = ("url",)
"""Names of the column that holds an image's URL. Only `flava data build` reads it, to find what
img2dataset fetched from there; other commands read no images from the web."""

FIRST_RECORDS = 100
"""Objects of JSON lines that are looked into for the names of their fields."""
LONGEST_CELL = 2**24
"""Characters that a cell of CSV or TSV may have: WIT's hold whole sections of articles. The csv
module has one limit for the whole process, 2**17 unless it is set."""
PARQUET_BUFFER_BYTES = 2**20
PARQUET_ROWS = 64
"""Records read at once from Parquet: images may stand in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record. Bytes that are no UTF-8 stand in its texts as lone surrogates."""

    number: int
    """The number of its line in the file, or of its row in Parquet, from 1."""
    cells: dict[str, Any]
    """By the name of the column."""
    done: float
    """The share of the file that has been read, from 0 to 1."""

    def find(self, names: tuple[str, ...]) -> Any:
        """The cell of the first of these columns that the record has; None if it has none."""
        return next((self.cells[name] for name in names if name in self.cells), None)

    def cell(self, names: tuple[str, ...]) -> Any:
        """As ``find``, for columns one of which must be there.

        Raises:
            SampleError: the record has none of them.
        """
        if not self.cells.keys().isdisjoint(names):
            return self.find(names)
        columns = ", ".join(self.cells) or "none"
        raise SampleError("column is missing", f"{' or '.join(names)}; there are {columns}")


RecordOrSkipped = Record | SkippedSample

UNREADABLE = (OSError, EOFError, zlib.error)
"""Errors of a file that cannot be read or unpacked."""


def is_table(path: Path) -> bool:
    """Whether a file is a table that can be read, by its name's ending."""
    return _ending(path) in TABLE_READERS


def read_table(path: Path, columns: Collection[str]) -> Iterator[RecordOrSkipped]:
    """The records of a file in order, with their cells of those ``columns`` that it has.

    Lines of plain text have one column, "text". Empty lines are passed over.
    """
    count = 0
    try:
        for each in TABLE_READERS[_ending(path)](path, columns):
            count += 1
            yield each
    except (*UNREADABLE, pa.ArrowException) as error:
        yield skip_record(path, None, SampleError("table cannot be read", str(error)))
        return
    if not count:
        yield skip_record(path, None, SampleError("table is empty", "it holds no record"))


def table_columns(path: Path) -> list[str] | None:
    """The names of a table's columns (of JSON lines, its first objects'); None if unreadable."""
    if _ending(path) == ".parquet":
        try:
            return pq.read_schema(path).names
        except (OSError, pa.ArrowException):
            return None
    if _ending(path) in (".csv", ".tsv"):
        try:
            with opened(path) as (stream, _):
                _, header = next(csv_rows(_csv_lines(stream), _delimiter(path)), (0, None))
        except UNREADABLE:
            return None
        return header if isinstance(header, list) else None
    records = (each for each in read_table(path, ()) if isinstance(each, Record))
    names = {name: None for each in islice(records, FIRST_RECORDS) for name in each.cells}
    return list(names) or None


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file that is read piece by piece: by default pyarrow keeps all it has read."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BUFFER_BYTES)


def skip_record(path: Path, number: int | None, error: SampleError) -> SkippedSample:
    """A report on one record, or on a whole table (its number is None)."""
    key = "" if number is None else f"{path.name}:{number}"
    return SkippedSample(shard=str(path), key=key, reason=error.reason, message=str(error))


def _read_lines(path: Path, _columns: Collection[str]) -> Iterator[RecordOrSkipped]:
    with opened(path) as (stream, done):
        for number, line in enumerate(stream, 1):
            if text := decoded_line(line, number).strip():
                yield Record(number=number, cells={"text": text}, done=done())


def _read_json_lines(path: Path, _columns: Collection[str]) -> Iterator[RecordOrSkipped]:
    with opened(path) as (stream, done):
        for number, line in enumerate(stream, 1):
            text = decoded_line(line, number)
            if not text.strip():
                continue
            try:
                cells = parsed_json(text)
                if not isinstance(cells, dict):
                    raise SampleError("json is not an object", type(cells).__name__)
            except SampleError as error:
                yield skip_record(path, number, error)
            else:
                yield Record(number=number, cells=cells, done=done())


def _read_csv(path: Path, columns: Collection[str]) -> Iterator[RecordOrSkipped]:
    with opened(path) as (stream, done):
        rows = csv_rows(_csv_lines(stream), _delimiter(path))
        _, header = next(rows, (0, []))
        if isinstance(header, csv.Error):
            yield skip_record(path, 1, SampleError("line is no CSV", str(header)))
            return
        for number, row in rows:
            if isinstance(row, csv.Error):
                yield skip_record(path, number, SampleError("line is no CSV", str(row)))
            elif len(row) == len(header):
                cells = dict(zip(header, row, strict=True))
                wanted = {name: cells[name] for name in cells.keys() & columns}
                yield Record(number=number, cells=wanted, done=done())
            elif row:
                detail = f"{len(row)} cells, and {len(header)} in the first line"
                error = SampleError("line does not fit the columns", detail)
                yield skip_record(path, number, error)


def _read_parquet(path: Path, columns: Collection[str]) -> Iterator[RecordOrSkipped]:
    with open_parquet(path) as file:
        rows, number = file.metadata.num_rows, 0
        wanted = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
            cells = {name: _values(batch.column(name)) for name in wanted}
            for index in range(batch.num_rows):
                number += 1
                record = {name: values[index] for name, values in cells.items()}
                yield Record(number=number, cells=record, done=number / rows)


TABLE_READERS: dict[str, Callable[[Path, Collection[str]], Iterator[RecordOrSkipped]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
"""By the ending of the name; all but Parquet may have .gz behind it."""


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()  # pyright: ignore[reportAttributeAccessIssue]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # Arrow believes that these are UTF-8, and raises for a whole column where one is not.
        stored = column.cast(pa.large_binary()).to_pylist()
        return [None if each is None else each.decode(errors="surrogateescape") for each in stored]
    return column.to_pylist()


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return "" if name.endswith(".parquet") and path.suffix == ".gz" else Path(name).suffix


def _delimiter(path: Path) -> str:
    return "\t" if _ending(path) == ".tsv" else ","


def _csv_lines(stream: io.BufferedIOBase) -> Iterable[str]:
    binary = cast(IO[bytes], stream)  # typeshed knows no better class of both kinds of files
    return io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")


def csv_rows(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Rows with quotes, each with the number of its last line; an error for a malformed one."""
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, error
        else:
            yield rows.line_num, row


def decoded_line(line: bytes, number: int) -> str:
    """A line as text; bytes that are no UTF-8 stand in it as lone surrogates."""
    return line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")


def parsed_json(text: str) -> Any:
    """Raises SampleError: the text is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError("json cannot be decoded", str(error)) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, Callable[[], float]]]:
    """A file, unpacked if its name ends in .gz, and the share of it that has been read."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
        yield stream, lambda: raw.tell() / size

"""Tables of any length, a record at a time: CSV, TSV, JSON lines, Parquet, and plain lines.

What cannot be read comes out as ``SkippedSample``, in its place, as for shards.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from flava.data.errors import SampleError, SkippedSample

FIRST_RECORDS = 100
"""Objects of JSON lines that are looked into for the names of their fields."""
PARQUET_BUFFER_BYTES = 2**20
PARQUET_ROWS = 64
"""Records read at once from Parquet: images may stand in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record. Bytes that are no UTF-8 stand in its texts as lone surrogates."""

    number: int
    """Of its line in the file, or of its row in Parquet; both from 1."""
    cells: dict[str, Any]
    done: float
    """The share of the file that has been read, from 0 to 1."""


ReadTable = Iterator[Record | SkippedSample]


def is_table(path: Path) -> bool:
    """Whether the name's ending is of a table that can be read."""
    return _ending(path) in TABLE_READERS


def read_table(path: Path, columns: Collection[str]) -> ReadTable:
    """The records of a file in order, with those of ``columns`` that it has.

    Lines of plain text have one column, "text". Empty lines are passed over.
    """
    count = 0
    try:
        for each in TABLE_READERS[_ending(path)](path, columns):
            count += 1
            yield each
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
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
            with _opened(path) as (stream, _):
                return next(_csv_rows(path, stream), None)
        except (OSError, EOFError, zlib.error, csv.Error):
            return None
    records = (each for each in read_table(path, ()) if isinstance(each, Record))
    names = {name: None for each in islice(records, FIRST_RECORDS) for name in each.cells}
    return list(names) or None


def open_parquet(path: Path) -> pq.ParquetFile:
    """Reads as it goes: by default pyarrow holds all that it has read until the end."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BUFFER_BYTES)


def skip_record(path: Path, number: int | None, error: SampleError) -> SkippedSample:
    """A report on one record, or on a whole table."""
    key = "" if number is None else f"{path.name}:{number}"
    return SkippedSample(shard=str(path), key=key, reason=error.reason, message=str(error))


def _read_lines(path: Path, _columns: Collection[str]) -> ReadTable:
    with _opened(path) as (stream, done):
        for number, line in enumerate(stream, 1):
            if text := _text(line, number).strip():
                yield Record(number=number, cells={"text": text}, done=done())


def _read_json_lines(path: Path, _columns: Collection[str]) -> ReadTable:
    with _opened(path) as (stream, done):
        for number, line in enumerate(stream, 1):
            text = _text(line, number)
            if not text.strip():
                continue
            try:
                cells = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield skip_record(path, number, SampleError("json cannot be decoded", str(error)))
                continue
            if isinstance(cells, dict):
                yield Record(number=number, cells=cells, done=done())
            else:
                yield skip_record(
                    path, number, SampleError("json is not an object", type(cells).__name__)
                )


def _read_csv(path: Path, columns: Collection[str]) -> ReadTable:
    with _opened(path) as (stream, done):
        rows = _csv_rows(path, stream)
        header = next(rows, [])
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield skip_record(path, rows.line_num, SampleError("line is no CSV", str(error)))
                continue
            if row is None:
                return
            if len(row) == len(header):
                cells = dict(zip(header, row, strict=True))
                wanted = {name: cells[name] for name in cells.keys() & columns}
                yield Record(number=rows.line_num, cells=wanted, done=done())
            elif row:
                detail = f"{len(row)} cells, and {len(header)} in the first line"
                yield skip_record(
                    path, rows.line_num, SampleError("line does not fit the columns", detail)
                )


def _read_parquet(path: Path, columns: Collection[str]) -> ReadTable:
    with open_parquet(path) as file:
        rows, number = file.metadata.num_rows, 0
        wanted = [name for name in file.schema_arrow.names if name in columns]
        for batch in file.iter_batches(PARQUET_ROWS, columns=wanted):
            cells = {name: _values(batch.column(name)) for name in wanted}
            for index in range(batch.num_rows):
                number += 1
                record = {name: values[index] for name, values in cells.items()}
                yield Record(number=number, cells=record, done=number / rows)


TABLE_READERS: dict[str, Callable[[Path, Collection[str]], ReadTable]] = {
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


def _text(line: bytes, number: int) -> str:
    return line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")


def _csv_rows(path: Path, stream: io.BufferedIOBase) -> Any:
    text = io.TextIOWrapper(
        cast(IO[bytes], stream), "utf-8-sig", errors="surrogateescape", newline=""
    )
    return csv.reader(text, delimiter="\t" if _ending(path) == ".tsv" else ",")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, Callable[[], float]]]:
    """A file, unpacked if it is compressed, and what share of it has been read."""
    size = max(1, path.stat().st_size)
    with path.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
        yield stream, lambda: raw.tell() / size

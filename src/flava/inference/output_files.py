"""Tables of results in the formats that others read, and what is done so far.

They are appended to plain files, and a journal says up to where these are valid: it is replaced
after each append, so what a killed process wrote beyond it is cut off.

An output is written whole or not at all, and the same rows give the same bytes.
"""

import csv
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from flava.core.files import atomic_file, write_atomically
from flava.data.errors import SkippedSample

ROWS, VECTORS, SKIPPED, JOURNAL = "rows.jsonl", "vectors.f32", "skipped.jsonl", "journal.json"
SECONDS_BETWEEN_COMMITS = 1.0

ResultColumns = Mapping[str, str | float]
"""A row of the output by column, without its vector."""


@dataclass(kw_only=True)
class Journal:
    """What is done, and what made it."""

    about: dict[str, str]
    """What must be the same for going on: the model, the input, the command's settings."""
    notes: dict[str, str] = field(default_factory=dict)
    """What else a reader of the output may want to know."""
    consumed: int = 0
    """Rows of the input that are over."""
    rows: int = 0
    """Rows of the output."""
    width: int = 0
    """Dimensions of the vectors; 0 if there are none."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows were left out, and how many for each reason."""
    sizes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((ROWS, VECTORS, SKIPPED), 0)
    )
    """Valid bytes of each file."""


class Unfinished:
    """The rows done so far of one output; goes on where an earlier process ended.

    Raises:
        ValueError: the earlier process had another model, input or setting, or its journal is
            damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self, output: Path, about: Mapping[str, str], notes: Mapping[str, str] | None = None
    ) -> None:
        self.output = output
        self.folder = folder_of(output)
        self.journal = self._read() or Journal(about=dict(about))
        self._check(about)
        self.journal.notes = dict(notes or {})
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: (self.folder / name).open("ab") for name in self.journal.sizes}
        for name, size in self.journal.sizes.items():
            if self._files[name].tell() < size:
                raise ValueError(f"{self.folder / name} is cut: delete {self.folder} to begin anew")
            self._files[name].truncate(size)
        self._committed = time.monotonic()

    def append(
        self,
        rows: Sequence[ResultColumns],
        vectors: Float32[np.ndarray, "rows width"] | None,
        skipped: Sequence[SkippedSample],
        consumed: int,
    ) -> None:
        """Add what a batch brought; it is safe after the next ``commit``, once a second or so."""
        journal = self.journal
        try:
            self._write(ROWS, _lines(rows))
            self._write(SKIPPED, _lines([_report(each) for each in skipped]))
            if vectors is not None and rows:
                journal.width = vectors.shape[1]
                self._write(VECTORS, np.ascontiguousarray(vectors, "<f4").tobytes())
        except OSError as error:
            raise self._unwritable(error) from error
        journal.consumed, journal.rows = consumed, journal.rows + len(rows)
        journal.reasons = dict(Counter(journal.reasons) + Counter(s.reason for s in skipped))
        if time.monotonic() - self._committed > SECONDS_BETWEEN_COMMITS:
            self.commit()

    def commit(self) -> None:
        """Let a process that comes after this one go on from here."""
        try:
            for name, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                self.journal.sizes[name] = file.tell()
            fresh = self.folder / f".{JOURNAL}"
            fresh.write_text(json.dumps(asdict(self.journal)))
            fresh.replace(self.folder / JOURNAL)
        except OSError as error:
            raise self._unwritable(error) from error
        self._committed = time.monotonic()

    def close(self) -> None:
        """Close the files; what was not committed is lost."""
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """After the output was written."""
        shutil.rmtree(self.folder)

    def chunks(
        self, size: int
    ) -> Iterator[tuple[list[dict[str, Any]], Float32[np.ndarray, "rows width"]]]:
        """All committed rows with their vectors, ``size`` at a time."""
        width = self.journal.width
        with (self.folder / ROWS).open() as lines, (self.folder / VECTORS).open("rb") as vectors:
            while rows := [json.loads(line) for line in islice(lines, size)]:
                values = np.frombuffer(vectors.read(len(rows) * width * 4), "<f4")
                yield rows, values.reshape(len(rows), width)

    def _write(self, name: str, data: bytes) -> None:
        self._files[name].write(data)

    def _read(self) -> Journal | None:
        path = self.folder / JOURNAL
        try:
            return Journal(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}): delete {self.folder} to begin anew"
            ) from error

    def _check(self, about: Mapping[str, str]) -> None:
        before = self.journal.about
        changes = [
            f"{name}: {before.get(name)} then, {about.get(name)} now"
            for name in sorted(before.keys() | about.keys())
            if before.get(name) != about.get(name)
        ]
        if changes:
            raise ValueError(
                f"{self.output} was begun with something else, and cannot be gone on with:\n  "
                + "\n  ".join(changes)
                + f"\nGive what it was begun with, or another --output, or delete {self.folder} "
                "to begin anew"
            )

    def _unwritable(self, error: OSError) -> OSError:
        return OSError(
            f"{self.folder} could not be written ({error}): free some space there, then run the "
            "same command again. It goes on from what is done"
        )


def folder_of(output: Path) -> Path:
    """Where the rows of an output are kept until it is whole."""
    return output.with_name(f".{output.name}.unfinished")


def _lines(rows: Sequence[ResultColumns]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _report(each: SkippedSample) -> ResultColumns:
    """``path`` is the row's own name, or the file's where the whole file was left out."""
    file = {"file": each.shard} if each.key and each.shard else {}
    return {"path": each.key or each.shard, **file, "reason": each.reason, "message": each.message}


CHUNK_ROWS = 16_384
"""Rows in memory at once, and in a row group of Parquet."""

METADATA = "flava."
"""Begins the names under which Parquet's schema says what made a file."""

ABOUT = "about.json"
"""Says the same beside an .npy."""


def check_output(output: Path, endings: Collection[str]) -> None:
    """Raises ValueError if the format is unknown, FileExistsError if there is such a file."""
    if output.suffix.lower() not in endings:
        raise ValueError(f"--output {output} must end in {' or '.join(endings)}")
    if output.exists():
        raise FileExistsError(f"{output} is there already: delete it, or give another --output")


def write_output(unfinished: Unfinished) -> Path | None:
    """Write the output from its rows; returns the list of what was skipped, if anything was.

    Raises:
        OSError: it could not be written; the rows are still there.
    """
    output, listed = unfinished.output, beside(unfinished.output, SKIPPED)
    try:
        listed.unlink(missing_ok=True)
        if unfinished.journal.reasons:
            _copy(unfinished.folder / SKIPPED, listed)
        if output.suffix.lower() == ".npy":
            _copy(unfinished.folder / ROWS, beside(output, ROWS))
            write_atomically(beside(output, ABOUT), _about(unfinished))
        with atomic_file(output) as partial:
            WRITERS[output.suffix.lower()](unfinished, partial)
    except (OSError, pa.ArrowException) as error:
        raise OSError(
            f"{output} could not be written ({error}): free some space there, then run the same "
            "command again. No row is computed twice"
        ) from error
    return listed if unfinished.journal.reasons else None


def beside(output: Path, name: str) -> Path:
    """What belongs to an output stands beside it: cats.parquet, cats.skipped.jsonl."""
    return output.with_name(f"{output.stem}.{name}")


def _write_parquet(unfinished: Unfinished, path: Path) -> None:
    schema: pa.Schema | None = None
    writer: pq.ParquetWriter | None = None
    journal = unfinished.journal
    about = {f"{METADATA}{name}": value for name, value in (journal.about | journal.notes).items()}
    for rows, vectors in unfinished.chunks(CHUNK_ROWS):
        table = pa.Table.from_pylist(rows, schema)
        schema = table.schema
        if journal.width:
            flat = pa.array(vectors.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, journal.width)
            table = table.append_column("embedding", column)
        table = table.replace_schema_metadata(about)
        if writer is None:
            # Floats of embeddings do not shrink, and no two are the same.
            names = [name for name in table.column_names if name != "embedding"]
            options: dict[str, Any] = {
                "use_dictionary": names,
                "compression": dict.fromkeys(names, "zstd") | {"embedding": "none"},
            }
            writer = pq.ParquetWriter(path, table.schema, **options)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_npy(unfinished: Unfinished, path: Path) -> None:
    journal = unfinished.journal
    with path.open("wb") as file:
        shape = (journal.rows, journal.width)
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for _, vectors in unfinished.chunks(CHUNK_ROWS):
            file.write(vectors.tobytes())


def _about(unfinished: Unfinished) -> bytes:
    journal = unfinished.journal
    said = {**journal.about, **journal.notes, "rows": journal.rows, "width": journal.width}
    return (json.dumps(said, indent=2) + "\n").encode()


def _write_csv(unfinished: Unfinished, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for rows, _ in unfinished.chunks(CHUNK_ROWS):
            if writer is None:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
            writer.writerows(rows)


def _write_json_lines(unfinished: Unfinished, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for rows, _ in unfinished.chunks(CHUNK_ROWS):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


WRITERS: dict[str, Callable[[Unfinished, Path], None]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
}


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)

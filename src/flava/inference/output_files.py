"""Writes tables of results whole or not at all, and keeps the rows of unfinished ones.

Rows are appended to plain files in a hidden folder beside the output. A journal says up to which
byte these files are valid. It is replaced at each commit, so that a new process cuts off what a
killed one wrote after its last commit. At the end the output is written from these files; the same
rows give the same bytes.
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
"""Column -> value for a row of the output, without its vector."""


@dataclass(kw_only=True)
class Journal:
    """The state of an unfinished output, as it is saved in journal.json."""

    about: dict[str, str]
    """What has to be equal to go on: the model, the input, the settings of the command."""
    notes: dict[str, str] = field(default_factory=dict)
    """Further facts for readers of the output."""
    consumed: int = 0
    """Rows of the input that are done or skipped."""
    rows: int = 0
    """Rows of the output."""
    width: int = 0
    """Dimensions of the vectors; 0 without vectors."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Reason -> number of rows that were skipped for it."""
    sizes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((ROWS, VECTORS, SKIPPED), 0)
    )
    """File -> number of valid bytes."""


class PartialOutput:
    """The rows of an unfinished output; it continues where an earlier process stopped.

    Raises:
        ValueError: the earlier process had another model, input or setting, or its files are
            damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self, output: Path, about: Mapping[str, str], notes: Mapping[str, str] | None = None
    ) -> None:
        self.output = output
        self.folder = _partial_folder(output)
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
        """Append the results of a batch. They are safe after the next commit, about once a second.

        ``consumed`` is the number of input rows that are done or skipped after this batch.
        """
        journal = self.journal
        try:
            self._write(ROWS, _lines(rows))
            self._write(SKIPPED, _lines([_skipped_columns(each) for each in skipped]))
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
        """Flush all files and replace the journal: a later process goes on from here."""
        try:
            for name, file in self._files.items():
                file.flush()
                os.fsync(file.fileno())
                self.journal.sizes[name] = file.tell()
            with atomic_file(self.folder / JOURNAL) as fresh:
                fresh.write_text(json.dumps(asdict(self.journal)))
        except OSError as error:
            raise self._unwritable(error) from error
        self._committed = time.monotonic()

    def close(self) -> None:
        """Close the files; rows that were not committed are lost."""
        for file in self._files.values():
            file.close()

    def remove(self) -> None:
        """Delete the folder, after the output was written."""
        shutil.rmtree(self.folder)

    def chunks(
        self, size: int
    ) -> Iterator[tuple[list[dict[str, Any]], Float32[np.ndarray, "rows width"]]]:
        """All rows with their vectors, ``size`` at a time."""
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


def _partial_folder(output: Path) -> Path:
    """The folder that keeps the rows of an output until it is finished."""
    return output.with_name(f".{output.name}.unfinished")


def _lines(rows: Sequence[ResultColumns]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _skipped_columns(each: SkippedSample) -> ResultColumns:
    """``path`` is the name of the row, or of the file if the whole file was skipped."""
    file = {"file": each.shard} if each.key and each.shard else {}
    return {"path": each.key or each.shard, **file, "reason": each.reason, "message": each.message}


CHUNK_ROWS = 16_384
"""Rows in memory at once, and rows of a row group in Parquet."""

METADATA_PREFIX = "flava."
"""Prefix of the keys in Parquet's schema metadata that say how a file was made."""

ABOUT = "about.json"
"""The file beside an .npy that says the same."""


def check_output(output: Path, endings: Collection[str]) -> None:
    """Raises ValueError if the suffix is not allowed, FileExistsError if the file exists."""
    if output.suffix.lower() not in endings:
        raise ValueError(f"--output {output} must end in {' or '.join(endings)}")
    if output.exists():
        raise FileExistsError(f"{output} is there already: delete it, or give another --output")


def write_output(partial_output: PartialOutput) -> Path | None:
    """Write the output from its rows; return the file that names skipped rows, if there are any.

    Raises:
        OSError: it could not be written; the rows are kept.
    """
    output, skipped_file = partial_output.output, companion_path(partial_output.output, SKIPPED)
    try:
        skipped_file.unlink(missing_ok=True)
        if partial_output.journal.reasons:
            _copy(partial_output.folder / SKIPPED, skipped_file)
        if output.suffix.lower() == ".npy":
            _copy(partial_output.folder / ROWS, companion_path(output, ROWS))
            write_atomically(companion_path(output, ABOUT), _about_json(partial_output))
        with atomic_file(output) as partial:
            WRITERS[output.suffix.lower()](partial_output, partial)
    except (OSError, pa.ArrowException) as error:
        raise OSError(
            f"{output} could not be written ({error}): free some space there, then run the same "
            "command again. No row is computed twice"
        ) from error
    return skipped_file if partial_output.journal.reasons else None


def companion_path(output: Path, name: str) -> Path:
    """The path of a file that belongs to an output: for cats.parquet, cats.skipped.jsonl."""
    return output.with_name(f"{output.stem}.{name}")


def _write_parquet(partial_output: PartialOutput, path: Path) -> None:
    schema: pa.Schema | None = None
    writer: pq.ParquetWriter | None = None
    journal = partial_output.journal
    about = {
        f"{METADATA_PREFIX}{name}": value for name, value in (journal.about | journal.notes).items()
    }
    for rows, vectors in partial_output.chunks(CHUNK_ROWS):
        table = pa.Table.from_pylist(rows, schema)
        schema = table.schema
        if journal.width:
            flat = pa.array(vectors.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, journal.width)
            table = table.append_column("embedding", column)
        table = table.replace_schema_metadata(about)
        if writer is None:
            # Compression and a dictionary would not make random floats smaller.
            names = [name for name in table.column_names if name != "embedding"]
            options: dict[str, Any] = {
                "use_dictionary": names,
                "compression": dict.fromkeys(names, "zstd") | {"embedding": "none"},
            }
            writer = pq.ParquetWriter(path, table.schema, **options)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_npy(partial_output: PartialOutput, path: Path) -> None:
    journal = partial_output.journal
    with path.open("wb") as file:
        shape = (journal.rows, journal.width)
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        for _, vectors in partial_output.chunks(CHUNK_ROWS):
            file.write(vectors.tobytes())


def _about_json(partial_output: PartialOutput) -> bytes:
    journal = partial_output.journal
    content = {**journal.about, **journal.notes, "rows": journal.rows, "width": journal.width}
    return (json.dumps(content, indent=2) + "\n").encode()


def _write_csv(partial_output: PartialOutput, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for rows, _ in partial_output.chunks(CHUNK_ROWS):
            if writer is None:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
            writer.writerows(rows)


def _write_json_lines(partial_output: PartialOutput, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for rows, _ in partial_output.chunks(CHUNK_ROWS):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


WRITERS: dict[str, Callable[[PartialOutput, Path], None]] = {
    ".parquet": _write_parquet,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
}


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)

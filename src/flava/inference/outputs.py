"""The formats of results.

An output is written whole or not at all, and the same rows give the same bytes.
"""

import csv
import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flava.files import whole_file
from flava.inference.unfinished import ROWS, SKIPPED, Unfinished
from flava.training.files import write_whole

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
            write_whole(beside(output, ABOUT), _about(unfinished))
        with whole_file(output) as partial:
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
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)

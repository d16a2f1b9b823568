"""Rows done so far, kept beside the output until it is whole, so that a killed command goes on.

They are appended to plain files, and a journal says up to where these are valid: it is replaced
after each append, so what a killed process wrote beyond it is cut off.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flava.data.errors import Skipped

ROWS, VECTORS, SKIPPED, JOURNAL = "rows.jsonl", "vectors.f32", "skipped.jsonl", "journal.json"
SECONDS_BETWEEN_COMMITS = 1.0

Columns = Mapping[str, str | float]
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
        rows: Sequence[Columns],
        vectors: Float32[np.ndarray, "rows width"] | None,
        skipped: Sequence[Skipped],
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


def _lines(rows: Sequence[Columns]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _report(each: Skipped) -> Columns:
    """``path`` is the row's own name, or the file's where the whole file was left out."""
    file = {"file": each.shard} if each.key and each.shard else {}
    return {"path": each.key or each.shard, **file, "reason": each.reason, "message": each.message}

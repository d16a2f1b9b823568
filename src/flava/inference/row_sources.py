"""The rows of a user's input (a folder, tars, tables, plain text), read and decoded in batches.

Rows of a folder come sorted by path; those of tables, tars and plain text in their own order, file
after file. Rows are read without being decoded, so that a resumed command can skip those that
are done.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from flava.data.decoding import IMAGE_SUFFIXES, is_image
from flava.data.errors import SampleError, SkippedSample
from flava.data.paths import resolve, shown, walk_images
from flava.data.samples import first_caption
from flava.data.shards import TAR_SUFFIXES, RawSample, read_shard
from flava.data.tables import (
    IMAGE_COLUMNS,
    TABLE_READERS,
    TEXT_COLUMNS,
    Record,
    is_table,
    read_table,
    skip_record,
    table_columns,
)
from flava.inference.processor import open_image


class InputKind(Enum):
    """What a row holds."""

    IMAGES = "images"
    TEXTS = "texts"
    PAIRS = "pairs"

    @property
    def has_image(self) -> bool:
        return self is not InputKind.TEXTS

    @property
    def has_text(self) -> bool:
        return self is not InputKind.IMAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRow:
    """One row of the input; fields that its kind does not have are None."""

    path: str | None = None
    """The image's name: below its folder, as in the table, or SHARD.tar/NAME."""
    image: Path | bytes | None = None
    text: str | None = None

    def columns(self) -> dict[str, str]:
        """The columns that name the row in a result."""
        columns = {"path": self.path, "text": self.text}
        return {name: value for name, value in columns.items() if value is not None}


InputRowOrSkipped = InputRow | SkippedSample


@dataclass(frozen=True, kw_only=True)
class InputSource:
    """All rows of an input; ``open_source`` makes it."""

    kind: InputKind
    paths: tuple[Path, ...]
    counts: tuple[int, ...]
    """For each path the number of images if it is a folder, and of bytes if it is a file."""
    fingerprint: str
    """A hash of the names, sizes and times of the input's files, but not of their folder."""

    @property
    def root(self) -> Path:
        """The folder that the rows' paths start from."""
        first = self.paths[0]
        return first if first.is_dir() else first.parent

    def rows(self) -> Iterator[tuple[float, InputRowOrSkipped]]:
        """Each row, or the report on one that cannot be read, and the share done after it."""
        for index, (path, count) in enumerate(zip(self.paths, self.counts, strict=True)):
            for done, found in self._rows_of(path, count):
                yield (index + min(1.0, done)) / len(self.paths), found

    def _rows_of(self, path: Path, count: int) -> Iterator[tuple[float, InputRowOrSkipped]]:
        if path.is_dir():
            return _folder_rows(path, count)
        if is_table(path):
            return _table_rows(path, self.kind)
        return _tar_rows(path, count, self.kind)


def open_source(kind: InputKind, name: str) -> InputSource:
    """The input at a path; braces and globs may name several files.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a file is of no kind that can be read, a table lacks the columns, or a folder
            holds no image.
    """
    folder = Path(name).expanduser()
    paths = [folder] if folder.is_dir() else resolve(name)
    mistakes = [mistake for path in paths for mistake in _mistakes(kind, path)]
    if mistakes:
        raise ValueError("\n  ".join([f"--{kind.value} {name} cannot be read:", *mistakes]))
    digest = hashlib.sha256(kind.value.encode())
    counts = tuple(_survey(path, digest) for path in paths)
    return InputSource(
        kind=kind, paths=tuple(paths), counts=counts, fingerprint=digest.hexdigest()[:16]
    )


def _mistakes(kind: InputKind, path: Path) -> Iterator[str]:
    if path.is_dir():
        if kind is not InputKind.IMAGES:
            yield f"{path} is a folder: give a table (CSV, TSV, JSON lines, Parquet) or tars"
        elif not any(isinstance(found, str) for found in walk_images(path)):
            yield f"{path} holds no image{_what_else(path)}"
    elif is_table(path):
        yield from _missing_columns(kind, path)
    elif not path.name.lower().endswith(TAR_SUFFIXES):
        known = ", ".join((*TAR_SUFFIXES, *TABLE_READERS))
        yield f"{path} is of an unknown kind: give a folder, or a file that ends in {known}"


def _what_else(folder: Path) -> str:
    """What a folder without images holds instead, and what can be done."""
    there = Counter(path.suffix.lower() or "no ending" for path in folder.iterdir())
    listed = ", ".join(f"{count} with {suffix}" for suffix, count in there.most_common(5))
    known = ", ".join(IMAGE_SUFFIXES)
    tars = f"; for tars give '{folder}/*.tar'" if there.keys() & set(TAR_SUFFIXES) else ""
    return f" (in it: {listed or 'nothing'}): images end in {known}{tars}"


def _missing_columns(kind: InputKind, path: Path) -> Iterator[str]:
    columns = table_columns(path)
    if columns is None:
        return  # It is empty or damaged, which is reported when its turn comes.
    for needed, names in ((kind.has_image, IMAGE_COLUMNS), (kind.has_text, TEXT_COLUMNS)):
        if needed and not set(names) & set(columns):
            found = ", ".join(map(repr, columns)) or "none"
            yield f"{path} has no column {' or '.join(names)}; its columns are {found}"


def _survey(path: Path, digest: Any) -> int:
    if not path.is_dir():
        found = path.stat()
        digest.update(f"{shown(path.name)}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        return found.st_size
    count = 0
    for name in walk_images(path):
        count += 1
        if isinstance(name, str):
            found = (path / name).stat()
            digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return count


def _folder_rows(folder: Path, count: int) -> Iterator[tuple[float, InputRowOrSkipped]]:
    for number, name in enumerate(walk_images(folder), 1):
        found = (
            name if isinstance(name, SkippedSample) else InputRow(path=name, image=folder / name)
        )
        yield number / count, found


def _table_rows(path: Path, kind: InputKind) -> Iterator[tuple[float, InputRowOrSkipped]]:
    done = 0.0
    for each in read_table(path, IMAGE_COLUMNS + TEXT_COLUMNS):
        if isinstance(each, SkippedSample):
            yield done, each
            continue
        done = each.done
        try:
            yield done, _row_of(each, path, kind)
        except SampleError as error:
            yield done, skip_record(path, each.number, error)


def _row_of(record: Record, table: Path, kind: InputKind) -> InputRow:
    path, image = _image_cell(record, table) if kind.has_image else (None, None)
    return InputRow(path=path, image=image, text=_text_cell(record) if kind.has_text else None)


def _image_cell(record: Record, table: Path) -> tuple[str, Path | bytes]:
    cell, name = record.cell(IMAGE_COLUMNS), f"{table.name}:{record.number}"
    if isinstance(cell, dict):  # how the Hugging Face hub's tables hold images
        name, cell = cell.get("path") or name, cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return name, cell
    path = _unicode(cell, "path of an image").strip()
    return path, table.parent / path


def _text_cell(record: Record) -> str:
    """A text; of several captions the first."""
    cell = record.cell(TEXT_COLUMNS)
    return _unicode(cell[0] if isinstance(cell, list) and cell else cell, "text")


def _unicode(cell: object, what: str) -> str:
    if not isinstance(cell, str):
        raise SampleError(f"{what} is missing", f"found {type(cell).__name__}")
    if not cell.strip():
        raise SampleError(f"{what} is empty")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise SampleError(f"{what} is not UTF-8", f"character {error.start + 1}") from error
    return cell


def _tar_rows(path: Path, size: int, kind: InputKind) -> Iterator[tuple[float, InputRowOrSkipped]]:
    read = 0
    for raw in read_shard(path):
        if isinstance(raw, SkippedSample):
            yield read / size if size else 1.0, raw
            continue
        read += sum(map(len, raw.files.values()))
        for found in _sample_rows(path, raw, kind):
            yield read / size, found


def _sample_rows(path: Path, raw: RawSample, kind: InputKind) -> Iterator[InputRowOrSkipped]:
    """A row for each image of a sample; each has the sample's first caption."""
    images = {
        f"{path.name}/{raw.key}.{suffix}": data
        for suffix, data in raw.files.items()
        if is_image(f".{suffix}")
    }
    name = next(iter(images), f"{path.name}/{raw.key}")
    try:
        text = first_caption(raw) if kind.has_text else None
        if kind.has_image and not images:
            raise SampleError("sample has no image", f"files: {', '.join(sorted(raw.files))}")
    except SampleError as error:
        yield SkippedSample(shard=str(path), key=name, reason=error.reason, message=str(error))
        return
    if not kind.has_image:
        yield InputRow(text=text)
        return
    for each, data in images.items():
        yield InputRow(path=each, image=data, text=text)


DECODERS = 2
"""Threads that decode images. PIL releases Python's global lock, so they run at the same time."""
AHEAD = 8
"""Images that are decoded before they are needed: more would only take memory."""
BATCH_PIXELS = 128 * 2**20
"""A batch is closed early when its images have this many pixels: 384 MB in RGB."""


@dataclass(kw_only=True)
class InputBatch:
    """Rows that the model computes at once; ``images`` is empty if the rows are texts alone."""

    rows: list[InputRow] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    skipped: list[SkippedSample] = field(default_factory=list)
    """Rows that were left out."""
    consumed: int
    """How many rows of the source are done after this batch, those left out among them."""
    done: float = 0.0
    """The share of the source that is done after this batch."""

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows if row.text is not None]

    def is_full(self, size: int) -> bool:
        pixels = sum(image.width * image.height for image in self.images)
        return len(self.rows) >= size or pixels >= BATCH_PIXELS


def batches(source: InputSource, size: int, consumed: int = 0) -> Iterator[InputBatch]:
    """All batches after the first ``consumed`` rows, in order.

    If ``consumed`` is where a batch ended, the batches depend on the source and ``size`` alone: so
    a run that was interrupted computes the same as one that was not.
    """
    batch = InputBatch(consumed=consumed)
    for done, decoded in _decoded(islice(source.rows(), consumed, None)):
        batch.consumed += 1
        batch.done = done
        if isinstance(decoded, SkippedSample):
            batch.skipped.append(decoded)
            continue
        row, image = decoded
        batch.rows.append(row)
        if image is not None:
            batch.images.append(image)
        if batch.is_full(size):
            yield batch
            batch = InputBatch(consumed=batch.consumed)
    if batch.rows or batch.skipped:
        yield batch


DecodedRow = tuple[InputRow, Image.Image | None] | SkippedSample


def _decoded(rows: Iterator[tuple[float, InputRowOrSkipped]]) -> Iterator[tuple[float, DecodedRow]]:
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: deque[tuple[float, Future[DecodedRow] | DecodedRow]] = deque()

        def oldest() -> tuple[float, DecodedRow]:
            done, decoded = waiting.popleft()
            return done, decoded.result() if isinstance(decoded, Future) else decoded

        try:
            for done, found in rows:
                if isinstance(found, SkippedSample):
                    waiting.append((done, found))
                elif found.image is None:
                    waiting.append((done, (found, None)))
                else:
                    waiting.append((done, pool.submit(_decode, found, found.image)))
                if len(waiting) > AHEAD:
                    yield oldest()
            while waiting:
                yield oldest()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(row: InputRow, image: Path | bytes) -> DecodedRow:
    try:
        opened = open_image(image)
    except SampleError as error:
        return SkippedSample(shard="", key=row.path or "", reason=error.reason, message=str(error))
    # The file's bytes are not needed any more; those of a whole batch would take much memory.
    return InputRow(path=row.path, text=row.text), opened

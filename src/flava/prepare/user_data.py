"""Rows of users' own data, and of ImageNet: read from folders of images, tars and tables."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flava.data.decoding import is_image
from flava.data.errors import SampleError, SkippedSample
from flava.data.paths import walk_images
from flava.data.samples import first_caption
from flava.data.shards import TAR_SUFFIXES, read_shard
from flava.data.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    URL_COLUMNS,
    Record,
    is_table,
    read_table,
    skip_record,
)
from flava.prepare.images import relative_path
from flava.prepare.rows import AnnotationRow, RowOrSkipped

SPLITS = ("train", "val", "validation", "test")
"""Names of splits, as torchvision and datasets write them."""
DEPTH = 2
"""How deep below a folder its tars and Parquet files may be."""


def pair_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Pairs from tars (in WebDataset's layout) and from tables (``flava.data.tables``).

    Of several captions each makes a pair.
    """
    for path in _input_files(paths):
        if path.name.lower().endswith(TAR_SUFFIXES):
            yield from _tar_rows(path, captions=True)
        else:
            yield from _table_rows(path, captions=True)


def image_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Images alone, from folders (an image's folder is kept as "class"), tars and tables."""
    for path in paths:
        files = list(_input_files([path]))
        if path.is_dir() and not files:
            yield from _folder_rows(path)
        for each in files:
            if each.name.lower().endswith(TAR_SUFFIXES):
                yield from _tar_rows(each, captions=False)
            else:
                yield from _table_rows(each, captions=False)


def split_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """As ``image_rows``, of a single split: held-out images must not be trained on by accident.

    Raises:
        ValueError: a folder holds several splits, as folders or as Parquet files whose names begin
            with those of the splits.
    """
    for path in paths:
        if path.is_dir() and len(splits := _splits_in(path)) > 1:
            raise ValueError(
                f"--annotations {path} holds {' and '.join(splits)}: give the folder of one of "
                f"them, or its files ({splits[0]}-*.parquet)"
            )
    yield from image_rows(paths)


def _splits_in(folder: Path) -> list[str]:
    """The splits that have a folder or files in a folder."""
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    files = {path.name.partition("-")[0] for path in _input_files([folder])}
    return [name for name in SPLITS if name in folders | files]


def _input_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Tars and tables; of a folder its tars and Parquet files alone, sorted.

    Raises:
        ValueError: a file is neither tar nor table.
    """
    for path in paths:
        if not path.is_dir():
            if not is_table(path) and not path.name.lower().endswith(TAR_SUFFIXES):
                raise ValueError(
                    f"--annotations {path} is of an unknown kind: give a folder, a tar, CSV, TSV, "
                    "JSON lines or Parquet"
                )
            yield path
            continue
        endings = (*TAR_SUFFIXES, ".parquet")
        yield from sorted(
            file
            for depth in range(1, DEPTH + 1)
            for file in path.glob("/".join(["*"] * depth))
            if file.name.lower().endswith(endings) and not file.name.startswith(".")
        )


def _folder_rows(folder: Path) -> Iterator[RowOrSkipped]:
    """The images below a folder."""
    for name in walk_images(folder):
        if isinstance(name, SkippedSample):
            yield name
        else:
            parent = Path(name).parent.name
            yield AnnotationRow(
                location=f"{folder.name}/{name}",
                names=(name,),
                fields=(("class", parent),) if parent else (),
            )


def _tar_rows(path: Path, *, captions: bool) -> Iterator[RowOrSkipped]:
    """The samples of a tar; a second one of a key is left out, and links are not followed."""
    seen: set[str] = set()
    links = dict(_links_of(path))
    for raw in read_shard(path):
        if isinstance(raw, SkippedSample):
            yield raw
            continue
        location = f"{path.name}/{raw.key}"
        if raw.key in seen:
            yield skip_record(path, None, SampleError("two samples have one key", raw.key))
            continue
        seen.add(raw.key)
        images = [suffix for suffix in raw.files if is_image(f".{suffix}")]
        try:
            relative_path(raw.key)
            if raw.key in links:
                raise SampleError("link in a tar", links.pop(raw.key))
            if not images:
                raise SampleError("sample has no image", f"files: {', '.join(sorted(raw.files))}")
            texts = (first_caption(raw),) if captions else ()
        except SampleError as error:
            yield SkippedSample(
                shard=str(path), key=location, reason=error.reason, message=str(error)
            )
            continue
        yield AnnotationRow(location=location, captions=texts, data=raw.files[images[0]])
    for name in links.values():  # of samples without a file
        yield skip_record(path, None, SampleError("link in a tar", name))


def _links_of(path: Path) -> Iterator[tuple[str, str]]:
    """(key, name) of each entry of a tar that is neither file nor folder: links, devices, pipes."""
    # A damaged tar is reported where its samples are read.
    with suppress(tarfile.TarError, OSError, EOFError, zlib.error), tarfile.open(path) as tar:
        for entry in tar:
            if not entry.isfile() and not entry.isdir():
                folder, slash, name = entry.name.rpartition("/")
                yield f"{folder}{slash}{name.partition('.')[0]}", entry.name
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _table_rows(path: Path, *, captions: bool) -> Iterator[RowOrSkipped]:
    """The rows of a table."""
    for record in read_table(path, IMAGE_COLUMNS + URL_COLUMNS + TEXT_COLUMNS + LABEL_COLUMNS):
        if isinstance(record, SkippedSample):
            yield record
            continue
        try:
            yield from _record_rows(record, path, captions)
        except SampleError as error:
            yield skip_record(path, record.number, error)


def _record_rows(record: Record, path: Path, captions: bool) -> Iterator[AnnotationRow]:
    """The rows of a table's record: one for each of its captions.

    Raises:
        SampleError: it lacks a column, or names no image.
    """
    image = record.cell(IMAGE_COLUMNS + URL_COLUMNS)
    texts: Any = record.cell(TEXT_COLUMNS) if captions else [()]
    label = record.find(LABEL_COLUMNS)
    for text in texts if isinstance(texts, list) else [texts]:
        yield AnnotationRow(
            location=f"{path.name}:{record.number}",
            captions=(text,) if captions else (),
            fields=() if label is None else (("label", label),),
            **_image_source(image),
        )


def _image_source(cell: Any) -> dict[str, Any]:
    """The fields of a row that say where its image is: its file's bytes, its name, or its URL."""
    if isinstance(cell, dict):  # as the package datasets writes images to Parquet
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return {"data": cell}
    if not isinstance(cell, str) or not cell.strip():
        raise SampleError("path of an image is missing", f"found {type(cell).__name__}")
    if cell.startswith(("http://", "https://")):
        return {"url": cell}
    return {"names": (cell.strip(),)}

"""Data of one's own, and images and texts alone: folders, tars, tables -> rows."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flava.data.errors import SampleError, SkippedSample
from flava.data.paths import FOLDER_SUFFIXES, walk_images
from flava.data.samples import first_caption
from flava.data.shards import TAR_SUFFIXES, read_shard
from flava.data.tables import Record, is_table, read_table
from flava.prepare.pictures import inside
from flava.prepare.rows import AnnotationRow, RowOrSkipped, skip

IMAGE_COLUMNS = ("image", "path", "file", "url")
TEXT_COLUMNS = ("text", "caption", "captions")
LABEL_COLUMNS = ("label",)
SPLITS = ("train", "val", "validation", "test")
"""As torchvision and datasets name them."""
LEVELS = 2
"""How deep below a folder its tars and Parquet may be."""


def pair_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Pairs from tars (as WebDataset lays them) and from tables.

    A table's columns are image, path, file or url, and text, caption or captions. Of several
    captions each is a pair.
    """
    for path in inputs(paths):
        if path.name.lower().endswith(TAR_SUFFIXES):
            yield from tar_rows(path, captions=True)
        else:
            yield from table_rows(path, captions=True)


def image_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """Images alone from folders (the folder's name is kept as "class"), tars and tables."""
    for path in paths:
        found = list(inputs([path]))
        if path.is_dir() and not found:
            yield from folder_rows(path)
        for each in found:
            if each.name.lower().endswith(TAR_SUFFIXES):
                yield from tar_rows(each, captions=False)
            else:
                yield from table_rows(each, captions=False)


def split_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """As ``image_rows``, of one split: what is held out must not be trained on by accident.

    Raises:
        ValueError: a folder holds several, as folders or as Parquet that begins with their names.
    """
    for path in paths:
        if path.is_dir() and len(found := splits_in(path)) > 1:
            raise ValueError(
                f"--annotations {path} holds {' and '.join(found)}: give the folder of one of "
                f"them, or its files ({found[0]}-*.parquet)"
            )
    yield from image_rows(paths)


def splits_in(folder: Path) -> list[str]:
    """Those whose folders or files are in a folder."""
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    files = {path.name.partition("-")[0] for path in inputs([folder])}
    return [name for name in SPLITS if name in folders | files]


def inputs(paths: Sequence[Path]) -> Iterator[Path]:
    """Tars and tables; of a folder its tars and Parquet, sorted, and nothing else."""
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
            for depth in range(1, LEVELS + 1)
            for file in path.glob("/".join(["*"] * depth))
            if file.name.lower().endswith(endings) and not file.name.startswith(".")
        )


def folder_rows(folder: Path) -> Iterator[RowOrSkipped]:
    for name in walk_images(folder):
        if isinstance(name, SkippedSample):
            yield name
        else:
            parent = Path(name).parent.name
            yield AnnotationRow(
                place=f"{folder.name}/{name}",
                names=(name,),
                fields=(("class", parent),) if parent else (),
            )


def tar_rows(path: Path, *, captions: bool) -> Iterator[RowOrSkipped]:
    """The samples of a tar; a second one of a key is left out, and links are not followed."""
    seen: set[str] = set()
    links = dict(links_of(path))
    for raw in read_shard(path):
        if isinstance(raw, SkippedSample):
            yield replace(raw, key=raw.key or path.name)
            continue
        place = f"{path.name}/{raw.key}"
        if raw.key in seen:
            yield skip(path, None, SampleError("two samples have one key", raw.key))
            continue
        seen.add(raw.key)
        images = [name for name in raw.files if f".{name.lower()}".endswith(FOLDER_SUFFIXES)]
        try:
            inside(raw.key)
            if raw.key in links:
                raise SampleError("link in a tar", links.pop(raw.key))
            if not images:
                raise SampleError("sample has no image", f"files: {', '.join(sorted(raw.files))}")
            texts = (first_caption(raw),) if captions else ()
        except SampleError as error:
            yield SkippedSample(shard=str(path), key=place, reason=error.reason, message=str(error))
            continue
        yield AnnotationRow(place=place, captions=texts, data=raw.files[images[0]])
    for name in links.values():  # of samples that are nothing else
        yield skip(path, None, SampleError("link in a tar", name))


def links_of(path: Path) -> Iterator[tuple[str, str]]:
    """(key, name) of what is neither file nor folder in a tar: links, devices, pipes."""
    # What is damaged is reported where the samples are read.
    with suppress(tarfile.TarError, OSError, EOFError, zlib.error), tarfile.open(path) as tar:
        for entry in tar:
            if not entry.isfile() and not entry.isdir():
                folder, slash, name = entry.name.rpartition("/")
                yield f"{folder}{slash}{name.partition('.')[0]}", entry.name
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


def table_rows(path: Path, *, captions: bool) -> Iterator[RowOrSkipped]:
    for record in read_table(path, IMAGE_COLUMNS + TEXT_COLUMNS + LABEL_COLUMNS):
        if isinstance(record, SkippedSample):
            yield record
            continue
        try:
            yield from record_rows(record, path, captions)
        except SampleError as error:
            yield skip(path, record.number, error)


def record_rows(record: Record, path: Path, captions: bool) -> Iterator[AnnotationRow]:
    place = f"{path.name}:{record.number}"
    image = cell(record, IMAGE_COLUMNS)
    texts: Any = cell(record, TEXT_COLUMNS) if captions else [()]
    label = record.cells.get("label")
    for text in texts if isinstance(texts, list) else [texts]:
        yield AnnotationRow(
            place=place,
            captions=(text,) if captions else (),
            fields=() if label is None else (("label", label),),
            **image_of(image),
        )


def image_of(found: Any) -> dict[str, Any]:
    """What a cell says of an image: its file, its name, or its URL."""
    if isinstance(found, dict):  # as the package datasets writes images to Parquet
        found = found.get("bytes") or found.get("path")
    if isinstance(found, bytes):
        return {"data": found}
    if not isinstance(found, str) or not found.strip():
        raise SampleError("path of an image is missing", f"found {type(found).__name__}")
    if found.startswith(("http://", "https://")):
        return {"url": found}
    return {"names": (found.strip(),)}


def cell(record: Record, names: tuple[str, ...]) -> Any:
    for name in names:
        if name in record.cells:
            return record.cells[name]
    raise SampleError("column is missing", f"{' or '.join(names)}")

"""ImageNet-1k's validation images with their labels, in any of the forms in which they are stored.

These are a folder with a folder for each class, as torchvision reads it; Parquet, as `datasets`
writes it; and tars, as `flava data build imagenet-1k` writes them. An index says where each image
lies, so that each rank can read its own images alone.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from flava.data.decoding import is_image
from flava.data.errors import SampleError, SkippedSample
from flava.data.manifest import NAME as MANIFEST
from flava.data.manifest import UNFINISHED, read_manifest
from flava.data.paths import resolve, walk_images
from flava.data.remote import is_url
from flava.data.shards import TAR_BLOCK_BYTES, read_range
from flava.data.tables import open_parquet

CLASSES = 1000
IMAGES = 50_000
"""Images of the whole validation set."""
WNIDS = Path(__file__).with_name("imagenet_wnids.txt")
"""The classes' WordNet ids, sorted: class n is on line n, counted from 0 (ILSVRC 2012)."""
PLACES = (
    "imagenet-1k-val/*.tar",
    "imagenet-1k-val/*.parquet",
    "imagenet/val",
    "imagenet/validation-*.parquet",
    "imagenet/data/validation-*.parquet",
)
"""Where the images are looked for below the root of the data: shards of `flava data build`, the
folder that `flava evaluate --tasks imagenet` reads, files of `datasets`."""


@dataclass(frozen=True, slots=True)
class InFile:
    """An image file, or a part of a tar."""

    path: Path
    start: int = 0
    size: int | None = None
    """Bytes; None means the whole file."""

    def read(self) -> bytes:
        if self.size is None:
            return self.path.read_bytes()
        return read_range(self.path, self.start, self.size)


@dataclass(frozen=True, slots=True)
class InParquet:
    """A cell of the column "image"."""

    path: Path
    group: int
    row: int
    """The number of the row within its group."""

    def read(self) -> bytes:
        with _READING:
            cell = _column(self.path, self.group)[self.row].as_py()
        return (cell.get("bytes") or b"") if isinstance(cell, dict) else cell or b""


_READING = Lock()
"""Threads that decode ask for images of the same row group, which is to be read once."""


@lru_cache(maxsize=2)  # images are read in order: those of a row group follow each other
def _column(path: Path, group: int) -> pa.ChunkedArray:
    with open_parquet(path) as file:
        return file.read_row_group(group, columns=["image"]).column("image")


@dataclass(frozen=True)
class LabelledImages:
    """Where each image lies, and the number of its class."""

    places: Sequence[InFile | InParquet]
    labels: Int[np.ndarray, " images"]
    source: str
    """Where they were found."""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int) -> bytes:
        """An image's file; raises SampleError if it cannot be read."""
        try:
            return self.places[place].read()
        except (OSError, pa.ArrowException) as error:
            where = self.places[place].path
            raise SampleError("image cannot be read", f"{where}: {error}") from error

    def __str__(self) -> str:
        count, classes = len(self), len(np.unique(self.labels))
        whole = "" if count == IMAGES else f" (which has {IMAGES:,} of {CLASSES:,})"
        return f"{count:,} images of {classes:,} classes of ImageNet-1k{whole}, from {self.source}"


def validation_images(given: Sequence[str], root: str) -> LabelledImages:
    """The images at the paths that are given, or those found below ``root`` if there are none.

    Raises:
        FileNotFoundError: there are none; the places that were tried are listed.
        ValueError: an image has no label, or one that is no class's; or they are behind a URL.
    """
    tried = tuple(given) or tuple(f"{root.rstrip('/')}/{place}" for place in PLACES)
    if urls := [place for place in tried if is_url(place)]:
        raise ValueError(f"the images are read from files, and {urls[0]} is a URL: copy them")
    found = [path for place in given for path in _paths(place, needed=True)]
    source = ", ".join(given)
    for place in () if given else tried:
        if paths := _paths(place, needed=False):
            found, source = paths, place
            break
    if not found:
        raise FileNotFoundError(
            f"there are no validation images of ImageNet-1k: tried {', '.join(tried)}"
        )
    for folder in set() if given else {path.parent for path in found}:
        _check_whole(folder)
    every = [each for path in dict.fromkeys(found) for each in _images_of(path)]
    if not every:
        raise FileNotFoundError(f"{source} holds no image")
    return LabelledImages(
        tuple(place for place, _ in every), np.array([label for _, label in every]), source
    )


def _check_whole(folder: Path) -> None:
    """Raises ValueError: shards of `flava data build` are incomplete."""
    again = "run the same `flava data build` again, which continues where it stopped"
    if (folder / UNFINISHED).is_dir():
        raise ValueError(f"{folder} is a build that did not end: {again}")
    if not (folder / MANIFEST).is_file():
        return
    named = [shard["name"] for shard in read_manifest(folder)["shards"]]
    if missing := [name for name in named if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {len(missing)} shards, first {missing[0]}: {again}")


def _paths(place: str, *, needed: bool) -> list[Path]:
    if Path(place).is_dir():
        return [Path(place)]
    try:
        return resolve(place)
    except FileNotFoundError:
        if needed:
            raise
        return []


def _images_of(path: Path) -> Iterator[tuple[InFile | InParquet, int]]:
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".parquet":
        return _of_parquet(path)
    if path.name.endswith(".tar"):
        return _of_tar(path)
    raise ValueError(
        f"{path} is of an unknown kind: give a folder of class folders, .tar, .parquet"
    )


def _of_folder(folder: Path) -> Iterator[tuple[InFile, int]]:
    for inside in sorted(each for each in folder.iterdir() if not each.name.startswith(".")):
        if not inside.is_dir():
            raise ValueError(
                f"{inside} is in no class's folder: the images of each class must be in one, named "
                f"by its WordNet id (n01440764)"
            )
        label = _label_of(inside.name, inside)
        for name in walk_images(inside):
            # An unreadable file counts as an image, and is reported when it is to be read.
            yield InFile(inside / (name.key if isinstance(name, SkippedSample) else name)), label


def _of_parquet(path: Path) -> Iterator[tuple[InParquet, int]]:
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            if missing := {"image", "label"} - set(schema.names):
                raise ValueError(f"{path} has no column {' and no column '.join(sorted(missing))}")
            if not _holds_files(kind := schema.field("image").type):
                raise ValueError(
                    f"{path}: the column image holds {kind}, not the bytes of files, alone or as "
                    "`datasets` writes them"
                )
            for group in range(file.num_row_groups):
                labels = file.read_row_group(group, columns=["label"]).column("label").to_pylist()
                for row, label in enumerate(labels):
                    where = f"{path}, row {row} of row group {group}"
                    yield InParquet(path, group, row), _label_of(label, where)
    except pa.ArrowException as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _of_tar(path: Path) -> Iterator[tuple[InFile, int]]:
    """A sample's image, and its label: "class" or "label" of its .json, or the number in .cls."""
    from webdataset.tariterators import base_plus_ext  # needs torch

    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            files = (member for member in tar if member.isfile())
            for key, members in groupby(files, lambda member: base_plus_ext(member.name)[0]):
                if (found := _of_sample(path, key, members)) is not None:
                    yield found
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
            # `tarfile` ends without an error where a header cannot be read.
            file.seek(tar.offset)
            if file.read(TAR_BLOCK_BYTES) != bytes(TAR_BLOCK_BYTES):
                raise tarfile.ReadError(f"it breaks off, or is damaged, at byte {tar.offset}")
    except tarfile.TarError as error:
        raise ValueError(f"{path} cannot be read as a tar: {error}") from error


def _of_sample(
    path: Path, key: str | None, members: Iterable[tarfile.TarInfo]
) -> tuple[InFile, int] | None:
    """The sample's image and the number of its class; None if it has no image."""
    image, label = None, None
    for member in members:
        suffix = member.name.rpartition(".")[2].lower()
        stored = InFile(path, member.offset_data, member.size)
        if is_image(f".{suffix}"):
            if image is not None:
                raise ValueError(
                    f"{path}: two images have one name up to the first dot, {key}, as samples are "
                    "told apart: name them anew"
                )
            image = stored
        elif suffix in ("json", "cls") and label is None:
            label = _stored_label(suffix, stored)
    return None if image is None else (image, _label_of(label, f"{path}, sample {key}"))


def _stored_label(suffix: str, file: InFile) -> Any:
    text = file.read().decode(errors="replace")
    if suffix == "cls":
        return text.strip()
    try:
        fields = json.loads(text)
    except ValueError:
        return None
    return fields.get("class", fields.get("label")) if isinstance(fields, dict) else None


def _label_of(named: Any, where: object) -> int:
    """The number of a class from its number or its WordNet id.

    Raises:
        ValueError: there is no such class.
    """
    is_number = isinstance(named, int) and not isinstance(named, bool)
    number = named if is_number else _numbers().get(str(named))
    if number is None or not 0 <= number < CLASSES:
        raise ValueError(
            f"{where}: {named!r} is no class of ImageNet-1k, which has WordNet ids such as "
            f"n01440764, or numbers from 0 to {CLASSES - 1}"
        )
    return number


@cache
def _numbers() -> dict[str, int]:
    """The number of each class by its WordNet id, and by itself as text."""
    ids = WNIDS.read_text().split()
    return {wnid: number for number, wnid in enumerate(ids)} | {
        str(number): number for number in range(CLASSES)
    }

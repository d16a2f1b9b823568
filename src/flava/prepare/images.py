"""Finds, checks, crops, downsizes and hashes the images of rows."""

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from flava.data.decoding import decode_image
from flava.data.errors import SampleError
from flava.prepare.fetched import Fetched, is_fetched
from flava.prepare.rows import AnnotationRow

SHOWN = 3
"""Names that an error lists."""


class InRows:
    """Images that stand in the rows themselves."""

    def read(self, row: AnnotationRow) -> bytes:
        """The row's image file.

        Raises:
            SampleError: the row holds none.
        """
        if row.data is None:
            raise SampleError("image is not there", "the row has none: give --images")
        return row.data


class Folder:
    """Image files below one folder, by the names in the rows; links out of it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()
        self._last: tuple[Path, bytes] | None = None

    def read(self, row: AnnotationRow) -> bytes:
        """As ``InRows.read``."""
        if row.data is not None:
            return row.data
        for name in row.names:
            path = self.root / relative_path(name)
            if self._last and self._last[0] == path:  # another region of the same image
                return self._last[1]
            try:
                data = path.read_bytes()
                resolved = path.resolve()
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise SampleError("image cannot be read", f"{path}: {error}") from error
            if not resolved.is_relative_to(self._resolved):
                raise SampleError("link leads out of the folder", f"{path} to {resolved}")
            self._last = path, data
            return data
        tried = ", ".join(row.names[:SHOWN]) or "the row names none"
        raise SampleError("image is not there", f"tried {tried} below {self.root}")


def relative_path(name: str) -> PurePosixPath:
    """A name as a path below a folder.

    Raises:
        SampleError: the name leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise SampleError("path leaves the folder", name[:200])
    return path


ImageStore = InRows | Folder | Fetched
"""A place from which the images of rows are read."""


@lru_cache(maxsize=1)
def open_images(folder: Path | None, index: Path) -> ImageStore:
    """The images of a build, opened once in each process.

    Args:
        folder: Where they are; None: in the rows.
        index: The folder of the index of what img2dataset fetched.
    """
    if folder is None:
        return InRows()
    return Fetched(folder, index) if is_fetched(folder) else Folder(folder)


JPEG_QUALITY = 90
KEPT_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats whose files go into shards as they are, with their suffix there; images of all other
formats that are read are written as JPEG."""

PixelBox = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardImage:
    """An image as it is written to a shard."""

    data: bytes
    suffix: str
    width: int
    height: int
    phash: int
    """Its perceptual hash, 64 bits."""


@lru_cache(maxsize=1)  # the next row may be another caption of the same image
def shard_image(
    data: bytes, box: PixelBox | None, *, short_side: int | None, min_side: int
) -> ShardImage:
    """The file as it is if it is small enough and wanted whole, otherwise a JPEG of ``short_side``.

    Args:
        box: The part that is wanted, without what lies outside the image; None: all of the image.
        short_side: The most pixels that the shorter side of the result has; None: any number.
        min_side: The fewest pixels that the shorter side of the image or part must have.

    Raises:
        SampleError: it cannot be decoded, is too large to be, or is smaller than ``min_side``.
    """
    image = _decode_cached(data)
    if box is not None:
        image = _cut_box(image, box)
    if min(image.size) < min_side:
        detail = f"{image.width}x{image.height}, and {min_side} pixels a side are asked for"
        raise SampleError("image is tiny", detail)
    suffix = KEPT_FORMATS.get(_stored_format(data))
    smaller = _downscaled(image, short_side)
    if box is None and suffix is not None and smaller is image:
        return ShardImage(
            data=data,
            suffix=suffix,
            width=image.width,
            height=image.height,
            phash=_perceptual_hash(image),
        )
    stream = io.BytesIO()
    smaller.save(stream, "JPEG", quality=JPEG_QUALITY)
    return ShardImage(
        data=stream.getvalue(),
        suffix="jpg",
        width=smaller.width,
        height=smaller.height,
        phash=_perceptual_hash(smaller),
    )


@lru_cache(maxsize=1)  # the next row may be another region of the same image
def _decode_cached(data: bytes) -> Image.Image:
    return decode_image(data)


def _perceptual_hash(image: Image.Image) -> int:
    """pHash as ImageHash computes it: 64 bits, which of the low frequencies exceed the median."""
    import imagehash

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes())


def perceptual_hash_of_file(data: bytes, short_side: int | None) -> int:
    """The perceptual hash of an image file as it would be written to a shard.

    Raises:
        SampleError: it cannot be decoded.
    """
    return _perceptual_hash(_downscaled(decode_image(data), short_side))


def _cut_box(image: Image.Image, box: PixelBox) -> Image.Image:
    """Raises SampleError: the box is outside the image."""
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(image.width, box[0] + box[2]), min(image.height, box[1] + box[3])
    if right <= left or bottom <= top:
        raise SampleError("region is outside the image", f"{box} of {image.width}x{image.height}")
    return image.crop((left, top, right, bottom))


def _downscaled(image: Image.Image, short_side: int | None) -> Image.Image:
    """The image with a shorter side of at most ``short_side`` pixels, in its aspect ratio."""
    short = min(image.size)
    if short_side is None or short <= short_side:
        return image
    width, height = (max(1, round(side * short_side / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _stored_format(data: bytes) -> str:
    """PIL's name of the format of a file that PIL can read."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format or ""

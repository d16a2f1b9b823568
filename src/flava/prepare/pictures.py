"""Images of rows found, checked, cropped and made smaller, with their perceptual hash."""

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


class InRows:
    """The rows hold their images."""

    def read(self, row: AnnotationRow) -> bytes:
        """The row's image file.

        Raises:
            SampleError: it cannot be had.
        """
        if row.data is None:
            raise SampleError("image is not there", "the row has none: give --images")
        return row.data


class Folder:
    """Files by their names below one folder; links out of it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._resolved = root.resolve()
        self._last: tuple[Path, bytes] | None = None

    def read(self, row: AnnotationRow) -> bytes:
        """As ``InRows.read``."""
        if row.data is not None:
            return row.data
        for name in row.names:
            path = self.root / inside(name)
            if self._last and self._last[0] == path:  # the next region of the same image
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


def inside(name: str) -> PurePosixPath:
    """Raises SampleError: the name leads out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise SampleError("path leaves the folder", name[:200])
    return path


ImageStore = InRows | Folder | Fetched
"""Where the images of rows are."""


@lru_cache(maxsize=1)
def open_images(folder: Path | None, index: Path) -> ImageStore:
    """The images of a build; once for each process.

    Args:
        index: The folder of the table of what was fetched.
    """
    if folder is None:
        return InRows()
    return Fetched(folder, index) if is_fetched(folder) else Folder(folder)


JPEG_QUALITY = 90
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are kept as they are, and how their files are named in a shard."""

PixelBox = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image as it is written."""

    data: bytes
    suffix: str
    width: int
    height: int
    looks: int
    """Its perceptual hash, 64 bits."""


@lru_cache(maxsize=1)  # the next caption of the same image
def picture_of(
    data: bytes, box: PixelBox | None, *, short_side: int | None, min_side: int
) -> Picture:
    """The file as it is if it is small enough and meant whole, else a JPEG of ``short_side``.

    Args:
        box: The part that is meant; what of it lies outside the image is cut off.
        short_side: Pixels of the shorter side of what is written, at most; None: as many as it has.
        min_side: Pixels that the shorter side must have.

    Raises:
        SampleError: it cannot be decoded, is too large to be, or is smaller than ``min_side``.
    """
    image = decoded(data)
    if box is not None:
        image = cut(image, box)
    if min(image.size) < min_side:
        detail = f"{image.width}x{image.height}, and {min_side} pixels a side are asked for"
        raise SampleError("image is tiny", detail)
    suffix = SUFFIXES.get(stored_format(data))
    smaller = shrunk(image, short_side)
    if box is None and suffix is not None and smaller is image:
        return Picture(
            data=data, suffix=suffix, width=image.width, height=image.height, looks=looks_of(image)
        )
    stream = io.BytesIO()
    smaller.save(stream, "JPEG", quality=JPEG_QUALITY)
    return Picture(
        data=stream.getvalue(),
        suffix="jpg",
        width=smaller.width,
        height=smaller.height,
        looks=looks_of(smaller),
    )


@lru_cache(maxsize=1)  # the next region of the same image
def decoded(data: bytes) -> Image.Image:
    return decode_image(data)


def looks_of(image: Image.Image) -> int:
    """The 64 bits of pHash, as ImageHash computes it: which low frequencies exceed the median."""
    import imagehash

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes())


def looks_of_file(data: bytes, short_side: int | None) -> int:
    """That of an image file as it would be written.

    Raises:
        SampleError: it cannot be decoded.
    """
    return looks_of(shrunk(decode_image(data), short_side))


def cut(image: Image.Image, box: PixelBox) -> Image.Image:
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(image.width, box[0] + box[2]), min(image.height, box[1] + box[3])
    if right <= left or bottom <= top:
        raise SampleError("region is outside the image", f"{box} of {image.width}x{image.height}")
    return image.crop((left, top, right, bottom))


def shrunk(image: Image.Image, short_side: int | None) -> Image.Image:
    """An image whose shorter side is ``short_side`` at most, its shape kept; None: as it is."""
    short = min(image.size)
    if short_side is None or short <= short_side:
        return image
    width, height = (max(1, round(side * short_side / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def stored_format(data: bytes) -> str:
    """As PIL names it; only called for what it could read."""
    with Image.open(io.BytesIO(data)) as image:
        return image.format or ""

"""The results of a search as one HTML page that holds the found images or texts."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from flava.data.errors import SampleError
from flava.data.shards import TAR_SUFFIXES
from flava.inference.processor import ImageLike, open_image
from flava.inference.row_sources import InputKind
from flava.inference.search import Hit, Index
from flava.reports.page import image_data_uri, render_page

THUMBNAIL_PIXELS = 320
"""Longest side of a picture on the page, in pixels."""


def results_page(index: Index, query: str | Path, hits: Sequence[Hit], seconds: float) -> str:
    """The page as HTML: one file that loads nothing from elsewhere.

    Args:
        index: The index that was searched.
        query: A text, or the path of an image.
        hits: What was found, the most similar first.
        seconds: How long the search took.
    """
    of_images = index.about.kind == InputKind.IMAGES.value
    root = Path(index.about.root)
    return render_page(
        "search",
        name=query.name if isinstance(query, Path) else query,
        query_picture=_thumbnail(query) if isinstance(query, Path) else None,
        hits=[(hit, _stored_picture(root, hit.name) if of_images else None) for hit in hits],
        of_images=of_images,
        about=index.about,
        milliseconds=1000 * seconds,
    )


def _stored_picture(root: Path, name: str) -> str | None:
    """A thumbnail of an indexed image; None if the image does not exist any more."""
    for part in Path(name).parents:
        if part.name.lower().endswith(TAR_SUFFIXES) and (root / part).is_file():
            data = _from_tar(root / part, str(Path(name).relative_to(part)))
            return None if data is None else _thumbnail(data)
    return _thumbnail(root / name)


def _from_tar(tar: Path, name: str) -> bytes | None:
    try:
        with tarfile.open(tar) as opened:
            file = opened.extractfile(name)
            return file.read() if file else None
    except (OSError, EOFError, KeyError, tarfile.TarError):
        return None


def _thumbnail(image: ImageLike) -> str | None:
    """A small WebP as a data URI; None if the image cannot be read."""
    try:
        small = open_image(image)
    except SampleError:
        return None
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=85)
    return image_data_uri(stream.getvalue(), "webp")

"""The answer to a query as one HTML page, with the images that were found in it."""

import base64
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from flava.data.errors import SampleError
from flava.data.shards import TAR_SUFFIXES
from flava.inference.processor import ImageLike, open_image
from flava.inference.row_sources import InputKind
from flava.inference.search import Hit, Index
from flava.reports.run_report import PAGE

THUMBNAIL_PIXELS = 320
"""Longest side of a picture on the page."""


def results_page(index: Index, query: str | Path, hits: Sequence[Hit], seconds: float) -> str:
    """The page: one file that loads nothing from elsewhere; all that comes from data is escaped.

    ``query`` is a text, or the path of an image.
    """
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    of_images = index.about.kind == InputKind.IMAGES.value
    return environment.get_template("search.html.jinja").render(
        style=Markup((PAGE / "style.css").read_text(encoding="utf-8")),
        query=query.name if isinstance(query, Path) else query,
        query_picture=thumbnail(query) if isinstance(query, Path) else None,
        hits=[
            (hit, stored_picture(Path(index.about.root), hit.name) if of_images else None)
            for hit in hits
        ],
        of_images=of_images,
        about=index.about,
        milliseconds=1000 * seconds,
    )


def stored_picture(root: Path, name: str) -> str | None:
    """A thumbnail of an indexed image; None where it is not there any more."""
    for part in Path(name).parents:
        if part.name.lower().endswith(TAR_SUFFIXES) and (root / part).is_file():
            data = _from_tar(root / part, str(Path(name).relative_to(part)))
            return None if data is None else thumbnail(data)
    return thumbnail(root / name)


def _from_tar(tar: Path, name: str) -> bytes | None:
    try:
        with tarfile.open(tar) as opened:
            file = opened.extractfile(name)
            return file.read() if file else None
    except (OSError, EOFError, KeyError, tarfile.TarError):
        return None


def thumbnail(image: ImageLike) -> str | None:
    """A small WebP as a data URI; None if the image cannot be read."""
    try:
        small = open_image(image)
    except SampleError:
        return None
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()

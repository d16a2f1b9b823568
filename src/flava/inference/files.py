"""The files beside a checkpoint's weights that say how to process images and texts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from flava.data.tokenizer import Tokenizer, read_vocabulary
from flava.data.views import Channels, Side, View
from flava.files import explain

IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""Hugging Face's image processor: of its older versions, and of a processor since version 5."""

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    height: Positive
    width: Positive


@dataclass(frozen=True, kw_only=True)
class ShortestEdge:
    shortest_edge: Positive


@dataclass(frozen=True, kw_only=True)
class ViewFile:
    """The fields of Hugging Face's image processors that decide what is seen.

    Those of the codebook are the same with "codebook_" before them. None is what the file leaves
    open.
    """

    do_resize: bool = True
    size: Rectangle | ShortestEdge | Positive | None = None
    resample: Image.Resampling | None = None
    do_center_crop: bool = True
    crop_size: Rectangle | Positive | None = None
    do_rescale: bool = True
    rescale_factor: float | None = None
    do_normalize: bool = True
    image_mean: Channels | None = None
    image_std: Channels | None = None
    do_map_pixels: bool | None = None

    def view(self, default: View) -> View:
        """The view, with ``default`` for what the file leaves open.

        Raises:
            ValueError: images would keep their own sizes, which no batch can hold.
        """
        size = default.size if self.size is None else sides(self.size)
        crop = default.crop if self.crop_size is None else square(self.crop_size)
        if not self.do_center_crop and isinstance(size, tuple):
            crop = size
        elif not self.do_center_crop or not self.do_resize:
            raise ValueError(
                "images would keep sizes of their own: do_resize must be true, and do_center_crop "
                "too where size is a shortest_edge"
            )
        normalised = self.do_normalize
        return View(
            size=size,
            crop=crop,
            resample=default.resample if self.resample is None else self.resample,
            scale=(self.rescale_factor or default.scale) if self.do_rescale else 1.0,
            mean=(self.image_mean or default.mean) if normalised else (0.0, 0.0, 0.0),
            std=(self.image_std or default.std) if normalised else (1.0, 1.0, 1.0),
            mapped=default.mapped if self.do_map_pixels is None else self.do_map_pixels,
        )


VIEW_FILE = TypeAdapter(ViewFile)


def sides(size: Rectangle | ShortestEdge | int) -> Side | int:
    return size.shortest_edge if isinstance(size, ShortestEdge) else square(size)


def square(size: Rectangle | int) -> Side:
    return (size, size) if isinstance(size, int) else (size.height, size.width)


def read_image_file(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The image processor's file and its fields; None if there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    for name in IMAGE_FILES:
        path = folder / name
        if path.is_file():
            fields = read_object(path)
            nested = fields.get("image_processor", fields)
            return path, nested if isinstance(nested, dict) else fields
    return None


def read_view(path: Path, fields: Mapping[str, Any], prefix: str, default: View) -> View:
    """One of the views that a file describes: ``prefix`` is "" or "codebook_".

    Raises:
        ValueError: the file does not describe a view; every mistake is listed.
    """
    own = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    try:
        return VIEW_FILE.validate_python(own).view(default)
    except ValidationError as error:
        raise ValueError(f"{path} does not hold ({prefix or 'image'}):{explain(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path} does not hold: {error}") from error


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """A BERT tokeniser with the folder's vocabulary, from vocab.txt or tokenizer.json; None if
    there is neither.

    Raises:
        ValueError: a file is damaged, or holds a tokeniser that is not BERT's.
    """
    words = read_words(folder)
    if words is None:
        return None
    settings = folder / "tokenizer_config.json"
    fields = read_object(settings) if settings.is_file() else {}
    try:
        return Tokenizer(words, lower_case=fields.get("do_lower_case", True) is not False)
    except ValueError as error:
        raise ValueError(f"the vocabulary in {folder} does not hold: {error}") from error


def read_words(folder: Path) -> list[str] | None:
    if (folder / "vocab.txt").is_file():
        return read_vocabulary(folder / "vocab.txt")
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    model = read_object(path).get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        raise ValueError(f"{path} does not hold a WordPiece tokeniser, which FLAVA's is")
    return sorted(model["vocab"], key=model["vocab"].__getitem__)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is not one.
    """
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): copy it anew") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} is not a JSON object: copy it anew")
    return fields

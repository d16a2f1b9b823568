"""The files of image processors and tokenisers beside the weights, in the format of Hugging Face.

Reading turns them into a `View` and a `Tokenizer`; writing serves `flava convert`.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from flava.checkpoints.reading import read_json
from flava.core.files import explain_errors
from flava.data.tokenizers import ClipTokenizer, Tokenizer, read_merges, read_vocabulary
from flava.data.transforms import CLIP_MEAN, CLIP_STD, CODE_PIXELS
from flava.data.views import Channels, Size, View
from flava.models import Clip, Flava, FlavaConfig

log = logging.getLogger(__name__)

IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
"""The image processor's own file, or since transformers 5 that of the whole processor."""

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
    """The fields of Hugging Face's image processors that decide what the model sees.

    Those of the codebook are the same with "codebook_" before them. None means that the file does
    not have the field.
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
        """The view, with ``default`` for the fields that the file does not have.

        Raises:
            ValueError: images would keep their own sizes, and could not be batched.
        """
        size = default.size if self.size is None else _size_of(self.size)
        crop = default.crop if self.crop_size is None else _square(self.crop_size)
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


def _size_of(size: Rectangle | ShortestEdge | int) -> Size | int:
    return size.shortest_edge if isinstance(size, ShortestEdge) else _square(size)


def _square(size: Rectangle | int) -> Size:
    return (size, size) if isinstance(size, int) else (size.height, size.width)


def read_image_file(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The path of the image processor's file and its fields; None if there is no such file.

    Raises:
        ValueError: it holds no JSON object.
    """
    for name in IMAGE_FILES:
        path = folder / name
        if path.is_file():
            fields = read_json(path)
            nested = fields.get("image_processor", fields)
            return path, nested if isinstance(nested, dict) else fields
    return None


def read_view(path: Path, fields: Mapping[str, Any], prefix: str, default: View) -> View:
    """One of the views that a file describes; ``prefix`` is "" or "codebook_".

    Raises:
        ValueError: the file does not describe a view; every mistake is listed.
    """
    view_fields = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    try:
        return VIEW_FILE.validate_python(view_fields).view(default)
    except ValidationError as error:
        raise ValueError(
            f"{path} does not hold ({prefix or 'image'}):{explain_errors(error)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} does not hold: {error}") from error


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """A BERT tokeniser with the folder's vocabulary, from vocab.txt or tokenizer.json; None if
    there is neither.

    Raises:
        ValueError: a file is damaged, or holds a tokeniser that is not BERT's.
    """
    words = _read_words(folder)
    if words is None:
        return None
    settings = folder / "tokenizer_config.json"
    fields = read_json(settings) if settings.is_file() else {}
    try:
        return Tokenizer(words, lower_case=fields.get("do_lower_case", True) is not False)
    except ValueError as error:
        raise ValueError(f"the vocabulary in {folder} does not hold: {error}") from error


def _read_words(folder: Path) -> list[str] | None:
    if (folder / "vocab.txt").is_file():
        return read_vocabulary(folder / "vocab.txt")
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    model = read_json(path).get("model")
    if not isinstance(model, dict) or model.get("type") != "WordPiece":
        raise ValueError(f"{path} does not hold a WordPiece tokeniser, which FLAVA's is")
    return sorted(model["vocab"], key=model["vocab"].__getitem__)


TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
VOCABULARIES = ("vocab.txt", "tokenizer.json", "vocab.json")
"""A folder with one of these has a tokeniser."""

BICUBIC, LANCZOS = 3, 1
"""Numbers of PIL's resampling filters, which processor configs contain."""

NORMALISED = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
}
"""How the processors of both models scale pixel values."""


def write_image_processor(model: Flava | Clip, folder: Path, source: Path | None) -> None:
    """Write that of the source folder if it has one, else one for the model's image size."""
    found = None if source is None else read_image_file(source)
    if found is not None:
        fields = dict(found[1])
    elif isinstance(model, Clip):
        fields = _clip_image_processor(model.config.image.image_size)
    else:
        fields = _flava_image_processor(model.config)
    _write_json(folder / "preprocessor_config.json", fields)


def write_tokenizer(model: Flava | Clip, folder: Path, source: Path | None, *, ours: bool) -> None:
    """Copy the source folder's tokeniser if it has one; else write ours, if asked and it fits."""
    if source is not None and any((source / name).is_file() for name in VOCABULARIES):
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    elif ours:
        tokenizer = ClipTokenizer() if isinstance(model, Clip) else Tokenizer()
        words = model.config.text.vocabulary_size
        if tokenizer.size > words:
            log.warning(
                "the text encoder has %d token ids, fewer than the tokeniser's %d: no tokeniser "
                "is written, give your own",
                words,
                tokenizer.size,
            )
        elif isinstance(tokenizer, ClipTokenizer):
            _write_clip_tokenizer(tokenizer, folder, model.config.text.max_length)
        else:
            _write_bert_tokenizer(tokenizer, folder, model.config.text.max_length)


def _write_bert_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write BERT's uncased WordPiece tokeniser as the files of transformers."""
    words = "".join(f"{tokenizer.token(index)}\n" for index in range(tokenizer.size))
    (folder / "vocab.txt").write_text(words, encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "BertTokenizer",
        "processor_class": "FlavaProcessor",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": max_length,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_clip_tokenizer(tokenizer: ClipTokenizer, folder: Path, max_length: int) -> None:
    """Write CLIP's byte-pair encoding as the files of transformers, with their special tokens."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = (*tokenizer.words[: tokenizer.start], start, end)
    _write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    lines = ["#version: 0.2", *(" ".join(merge) for merge in read_merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    _write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "processor_class": "CLIPProcessor",
        "do_lower_case": True,
        "model_max_length": max_length,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _clip_image_processor(side: int) -> dict[str, Any]:
    """The config of transformers' ``CLIPImageProcessor`` for an image size in pixels."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": _square_size(side),
        **NORMALISED,
        "do_convert_rgb": True,
    }


def _flava_image_processor(config: FlavaConfig) -> dict[str, Any]:
    """The config of transformers' ``FlavaImageProcessor`` for a model's image size.

    It masks the published share of patches: 75 of 196, in blocks of at least 16.
    """
    image = config.image
    size, codes = _square_size(image.image_size), _square_size(CODE_PIXELS * image.grid)
    patches = image.grid**2
    return {
        "image_processor_type": "FlavaImageProcessor",
        "processor_class": "FlavaProcessor",
        "do_resize": True,
        "size": size,
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": size,
        **NORMALISED,
        "input_size_patches": image.grid,
        "total_mask_patches": 75 * patches // 196,
        "mask_group_min_patches": 16 * patches // 196,
        "mask_group_min_aspect_ratio": 0.3,
        "mask_group_max_aspect_ratio": None,
        "codebook_do_resize": True,
        "codebook_size": codes,
        "codebook_resample": LANCZOS,
        "codebook_do_center_crop": True,
        "codebook_crop_size": codes,
        "codebook_do_rescale": True,
        "codebook_rescale_factor": 1 / 255,
        "codebook_do_map_pixels": True,
        "codebook_do_normalize": True,
        "codebook_image_mean": [0.0, 0.0, 0.0],
        "codebook_image_std": [1.0, 1.0, 1.0],
    }


def _square_size(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""The processor of a loaded model: turns images and texts of any form into pixels and token ids."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from flava.data.decoding import decode_image, to_rgb
from flava.data.errors import SampleError
from flava.data.tokenizers import ClipTokenizer, Tokenizer, pad
from flava.data.transforms import CODE_PIXELS
from flava.data.views import Size, View, clip_view, encoder_view
from flava.models import (
    ClipConfig,
    ClipTextConfig,
    DinoConfig,
    FlavaConfig,
    MaskedImageConfig,
    TextConfig,
)

ImageLike = Image.Image | np.ndarray | Tensor | str | Path | bytes
"""A PIL image, an array or tensor (see ``_from_array``), a file's path, or a file's bytes."""

ImagesLike = Sequence[ImageLike] | np.ndarray | Tensor
"""Many images: a list of any of those, or one array of ``images height width channels``."""

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGB with transparency."""
HALF_LEVEL = 0.5 / 255
"""How far a float may be outside [0, 1]: it still rounds to a level."""


def image_list(images: ImagesLike) -> Sequence[ImageLike]:
    """The images one by one.

    Raises:
        ValueError: it is one image, not a list of images.
    """
    is_single = isinstance(images, Image.Image | str | Path | bytes)
    if isinstance(images, np.ndarray | Tensor):
        is_single = images.ndim != 4
        images = list(images)
    if is_single:
        raise ValueError("images is a single image: give a list of images, [image]")
    return images


def open_image(image: ImageLike) -> Image.Image:
    """The image upright in RGB: see ``flava.data.decoding.to_rgb`` and ``_from_array``.

    Raises:
        SampleError: it cannot be read, decoded or understood, or is too large.
    """
    match image:
        case Image.Image():
            return to_rgb(image)
        case bytes():
            return decode_image(image)
        case str() | Path():
            return _open_file(Path(image))
        case Tensor():
            # numpy knows no bfloat16.
            values = image.detach().cpu()
            return _from_array((values.float() if values.is_floating_point() else values).numpy())
        case np.ndarray():
            return _from_array(image)
    raise SampleError(
        "not an image",
        f"{type(image).__name__}: give a PIL image, an array, a tensor, a path or a file's bytes",
    )


def _open_file(path: Path) -> Image.Image:
    try:
        return decode_image(path.expanduser().read_bytes())
    except SampleError as error:
        raise SampleError(error.reason, f"{path}: {error.detail}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SampleError("image cannot be read", f"{os.fspath(path)!r}: {reason}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    """Pixels as PIL's image: ``height width``, or with 1, 3 or 4 channels, first or last.

    Where both the first and the last side could be channels, the first is taken for them, as the
    published processor does. Whole numbers are levels of 255, of unsigned 16 bits of 65,535; floats
    are in [0, 1] and rounded to the nearest level; True is white.

    Raises:
        SampleError: another shape, or values outside these ranges.
    """
    levels = _to_uint8(array)
    if levels.ndim == 3 and levels.shape[0] in CHANNELS:
        levels = np.moveaxis(levels, 0, -1)
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.ndim != 3 or levels.shape[-1] not in CHANNELS:
        raise SampleError(
            "array is no image",
            f"its shape is {list(array.shape)}: give one image, [height, width] or with 1, 3 or 4 "
            "channels first or last",
        )
    is_grey = levels.shape[-1] == 1
    return to_rgb(Image.fromarray(np.ascontiguousarray(levels[..., 0] if is_grey else levels)))


def _to_uint8(array: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Values as whole numbers from 0 to 255; errors as `_from_array`."""
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    is_float = np.issubdtype(array.dtype, np.floating)
    if not (is_float or np.issubdtype(array.dtype, np.integer)):
        raise SampleError("array is no image", f"its type is {array.dtype}")
    low, high = (-HALF_LEVEL, 1 + HALF_LEVEL) if is_float else (0, 255)
    if array.size and not (low <= array.min() and array.max() <= high):  # False for NaN
        raise SampleError(
            "array's values are out of range",
            f"from {array.min():g} to {array.max():g}: floats must be in [0, 1], whole numbers in "
            "[0, 255]. Pixels that are normalised already go to the model itself (.model)",
        )
    if is_float:
        array = (array.astype(np.float32) * 255).round().clip(0, 255)
    return array.astype(np.uint8, copy=False)


Value = TypeVar("Value")
T = TypeVar("T")


@runtime_checkable
class TextTokenizer(Protocol):
    """A tokeniser as the processor uses it: BERT's and CLIP's are such."""

    pad: int
    size: int

    def encode(self, text: str, max_length: int) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Processor:
    """How images become pixels and texts become ids, for one model."""

    image: View
    """What the image encoder sees."""
    codebook: View | None
    """What the dVAE sees; None if the model has none."""
    tokenizer: TextTokenizer
    max_length: int
    """Longest text in tokens: what is beyond it is cut off."""

    def images(self, images: ImagesLike) -> Float[Tensor, "batch 3 height width"]:
        """The image encoder's pixels.

        Raises:
            ValueError: some cannot be used; each is named with its index and the reason.
        """
        return self.image.normalise(self._levels(images, self.image))

    def codebook_images(self, images: ImagesLike) -> Float[Tensor, "batch 3 height width"]:
        """The dVAE's pixels, mapped to [0.1, 0.9]; errors as ``images``."""
        if self.codebook is None:
            raise ValueError("this model has no codebook: load a FLAVA")
        return self.codebook.normalise(self._levels(images, self.codebook))

    def texts(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids padded to the longest text, and where they are not padding.

        Raises:
            ValueError: some are not Unicode text; each is named with its index.
        """
        return self.padded(self.input_ids(texts))

    def input_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, in its own length; errors as ``texts``."""
        if isinstance(texts, str):
            raise ValueError("texts is a single text: give a list of texts, [text]")
        return usable([attempt(self._encode, text) for text in texts], range(len(texts)), "texts")

    def padded(
        self, input_ids: Sequence[Sequence[int]]
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids padded to the longest of them, and where they are not padding."""
        padded, attention_mask = pad(input_ids, self.tokenizer.pad)
        return torch.from_numpy(padded), torch.from_numpy(attention_mask)

    def of_size(self, size: Size, patch_size: int) -> "Processor":
        """The same for images of another height and width."""
        codes = (size[0] // patch_size * CODE_PIXELS, size[1] // patch_size * CODE_PIXELS)
        codebook = None if self.codebook is None else self.codebook.of_size(codes)
        return replace(self, image=self.image.of_size(size), codebook=codebook)

    def _levels(self, images: ImagesLike, view: View) -> list[UInt8[np.ndarray, "height width 3"]]:
        images = image_list(images)
        results = [
            attempt(lambda image: view.transform(open_image(image)), each) for each in images
        ]
        return usable(results, range(len(images)), "images")

    def _encode(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise SampleError("not a text", f"{type(text).__name__}")
        return self.tokenizer.encode(text, self.max_length)


def default_image_view(config: FlavaConfig | ClipConfig | MaskedImageConfig | DinoConfig) -> View:
    """What an image encoder of that geometry sees: CLIP the image's middle, all others the whole
    image, squared."""
    size = config.image.image_size
    return clip_view(size) if isinstance(config, ClipConfig) else encoder_view(size)


def default_tokenizer(config: TextConfig) -> Tokenizer | ClipTokenizer:
    """The tokeniser that text encoders of that geometry are trained with, made once."""
    return _clip_tokenizer() if isinstance(config, ClipTextConfig) else bert_tokenizer()


@cache
def bert_tokenizer() -> Tokenizer:
    """FLAVA's: to read its vocabulary takes longer than a batch."""
    return Tokenizer()


@cache
def _clip_tokenizer() -> ClipTokenizer:
    """CLIP's, made once."""
    return ClipTokenizer()


def attempt(function: Callable[[Value], T], value: Value) -> T | SampleError:
    """The function's result, or the error if the value cannot be used."""
    try:
        return function(value)
    except SampleError as error:
        return error


def usable(results: Sequence[T | SampleError], indices: Sequence[int], what: str) -> list[T]:
    """The results if none is an error.

    Raises:
        ValueError: some are; all of them are named, each with its index among the inputs.
    """
    lines = [
        f"{what}[{index}]: {result}"
        for index, result in zip(indices, results, strict=True)
        if isinstance(result, SampleError)
    ]
    if lines:
        raise ValueError(f"some {what} cannot be used:\n  " + "\n  ".join(sorted(lines)))
    return [result for result in results if not isinstance(result, SampleError)]

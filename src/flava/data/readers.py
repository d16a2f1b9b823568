"""Rows to what a model reads: one class for each kind of input."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from flava.batch import ImageInputs, Inputs, PairInputs, TextInputs
from flava.data.clip_tokenizer import ClipTokenizer
from flava.data.decoding import open_image, to_rgb
from flava.data.errors import SampleError
from flava.data.labelled import Row
from flava.data.levels import decode_levels
from flava.data.tokenizer import Tokenizer, pad
from flava.data.transforms import cropped, normalise, resize_for_encoder

Read = TypeVar("Read")

WHOLE = (1.0, 1.0)
"""A crop of all of the area, which `random_crop` would cut to its range of aspect ratios."""


Pixels = UInt8[np.ndarray, "size size 3"]


class Reader(ABC, Generic[Read]):
    """How one kind of input is read."""

    @abstractmethod
    def read(self, row: Row, rng: np.random.Generator | None) -> Read:
        """One row decoded, augmented from ``rng`` if there is one; SampleError if it cannot be."""

    @abstractmethod
    def batch(self, read: Sequence[Read], /) -> Inputs:
        """Many of them as one."""


def row_image(row: Row, *, upright: bool = True) -> Image.Image:
    """The row's image in RGB, ``upright`` as its EXIF says, or as it is stored.

    Raises:
        SampleError: the file cannot be read or decoded.
    """
    return to_rgb(open_image(row_file(row)), upright=upright)


def row_file(row: Row) -> bytes:
    """Raises SampleError: the row's image cannot be read."""
    assert row.image is not None
    try:
        return row.image.read_bytes() if isinstance(row.image, Path) else row.image
    except OSError as error:
        raise SampleError("image cannot be read", f"{row.image}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class ImageReader(Reader[Pixels]):
    """Whole images; in training a random crop of each."""

    size: int
    """Pixels a side that the image encoder reads."""
    crop_scale: tuple[float, float]
    """Share of the image's area in a crop; with (1, 1) images stay whole, whatever their shape."""
    upright: bool = True
    """Whether images are turned as their EXIF says. The paper's tasks have them as they are stored:
    torchvision's readers, and those of the published code, do not turn them."""

    def read(self, row: Row, rng: np.random.Generator | None) -> Pixels:
        levels = decode_levels(row_file(row), upright=self.upright)
        if rng is not None and self.crop_scale != WHOLE:
            levels = cropped(rng, levels, self.crop_scale)
        return resize_for_encoder(levels, self.size)

    def batch(self, read: Sequence[Pixels], /) -> ImageInputs:
        return ImageInputs(pixels=normalise(np.stack(read)))


@dataclass(frozen=True, kw_only=True)
class TextReader(Reader[list[int]]):
    """Token ids, cut to ``max_length``; of two texts as the tokeniser joins them."""

    tokenizer: Tokenizer | ClipTokenizer
    max_length: int

    def read(self, row: Row, rng: np.random.Generator | None) -> list[int]:  # noqa: ARG002
        assert row.text is not None
        if row.second is not None:
            return self.tokenizer.encode_pair(row.text, row.second, self.max_length)
        return self.tokenizer.encode(row.text, self.max_length)

    def batch(self, read: Sequence[list[int]], /) -> TextInputs:
        ids, real = pad(read, self.tokenizer.pad)
        return TextInputs(ids=torch.from_numpy(ids), real=torch.from_numpy(real))


@dataclass(frozen=True, kw_only=True)
class PairReader(Reader[tuple[Pixels, list[int]]]):
    """An image and its text each."""

    image: ImageReader
    text: TextReader

    def read(self, row: Row, rng: np.random.Generator | None) -> tuple[Pixels, list[int]]:
        return self.image.read(row, rng), self.text.read(row, rng)

    def batch(self, read: Sequence[tuple[Pixels, list[int]]], /) -> PairInputs:
        images, texts = zip(*read, strict=True)
        return PairInputs(image=self.image.batch(images), text=self.text.batch(texts))

"""Decoded images cropped, resized and normalised: the encoder's pixels and the codebook's.

Each image is augmented and resized by itself, and the whole batch is normalised at once. Resizing
500x375 pixels on one core, PIL takes 1.7 ms to 224x224 (bicubic) and 1.8 ms to 112x112 (Lanczos);
the functions here take 0.4 and 0.8 (docs/log.md).

torchvision's transforms are not used: they draw from torch's global generator, where each sample
here has a generator of its own, take a second to import, and call the same functions of PIL.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance
from pydantic import Field, PositiveInt
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

from flava.core.batch import map_pixels
from flava.core.constraints import Fraction
from flava.data.decoding import to_rgb
from flava.data.fast_decoding import Uint8Image

LOBES = 3
"""Zeros of Lanczos' filter on each side, after which it ends: as in PIL, which DALL-E used."""
KEPT = 256
"""Resampling matrices that are kept: photos have few sizes, and random crops of them many."""


def _bicubic(
    image: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """An image resized to a square by torch's antialiased cubic filter (a = -0.5) in 8 bits."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _lanczos(
    image: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """An image resized to a square by Lanczos' antialiased filter: each row, then each column."""
    height, width, _ = image.shape
    # Transposed as a matrix, channels with columns: numpy is slow where an axis has three elements.
    columns = np.ascontiguousarray(image.reshape(height, -1).T)
    across = _resample(columns.reshape(width, -1), size)
    rows = np.ascontiguousarray(across.reshape(-1, height).T)
    return _resample(rows, size).reshape(size, size, 3)


def _resample(
    pixels: UInt8[np.ndarray, "old others"], size: int
) -> UInt8[np.ndarray, "size others"]:
    """The first axis resized; values are rounded and clipped after each axis, as in PIL."""
    resized = _lanczos_matrix(len(pixels), size) @ pixels.astype(np.float32)
    return np.rint(resized, out=resized).clip(0, 255, out=resized).astype(np.uint8)


@lru_cache(KEPT)
def _lanczos_matrix(old: int, new: int) -> csr_array:
    """The weights, (new, old), with which the old pixels of a line make up each new pixel.

    A new pixel's weights are the filter around its centre, as wide as the larger of the two pixels,
    and add up to one, also at the edges.
    """
    scale = max(1.0, old / new)
    centres = (np.arange(new) + 0.5) * (old / new)
    first = np.rint(centres - LOBES * scale).astype(int)
    reached = first[:, None] + np.arange(int(2 * LOBES * scale) + 2)
    distance = (reached + 0.5 - centres[:, None]) / scale
    inside = (abs(distance) < LOBES) & (reached >= 0) & (reached < old)
    weights = np.where(inside, np.sinc(distance) * np.sinc(distance / LOBES), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    row, _ = inside.nonzero()
    values = weights[inside].astype(np.float32)
    return csr_array((values, (row, reached[inside])), shape=(new, old))


JITTERED = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
"""Brightness, contrast and saturation, which BEiT's ``ColorJitter(0.4, 0.4, 0.4)`` changes."""


def jitter_colours(rng: np.random.Generator, image: Image.Image, strength: float) -> Image.Image:
    """Brightness, contrast and saturation changed in random order, by factors in 1 +- ``strength``.

    As torchvision's ``ColorJitter`` with three equal strengths and no change of hue. Nothing is
    drawn at strength 0.
    """
    if not strength:
        return image
    factors = rng.uniform(1 - strength, 1 + strength, len(JITTERED)).tolist()
    for place in rng.permutation(len(JITTERED)).tolist():
        image = JITTERED[place](image).enhance(factors[place])
    return image


def flip_at_random(rng: np.random.Generator, image: Image.Image, probability: float) -> Image.Image:
    """The image, mirrored with that probability. Nothing is drawn at probability 0."""
    if probability and rng.random() < probability:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's constants (openai/CLIP, ``clip.py``), which FLAVA's published processor uses too."""
CODE_PIXELS = 8
"""Codebook pixels a side for each code: the dVAE pools three times by two."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Aspect ratios of a random crop: the default of torchvision's ``RandomResizedCrop``."""
CROP_TRIES = 10
REDUCTIONS = (8, 4, 2)
"""What libjpeg divides sides by while decoding: it reads fewer of each block's frequencies."""
REDUCING_GAP = 2
"""A crop of a reduced image has at least so many times the pixels a side of what it is resized to:
PIL's ``reducing_gap`` in ``Image.thumbnail``."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, kw_only=True)
class ImageTransformConfig:
    """How an image is turned into the inputs of the image encoder and of the codebook."""

    image_size: PositiveInt = 224
    """Height and width in pixels of the image encoder's input."""
    codebook_size: Annotated[int, Field(gt=0, multiple_of=CODE_PIXELS)] = 112
    """Height and width in pixels of the codebook's input: image_size / patch_size * 8, as each code
    stands for 8 x 8 pixels."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Smallest and largest share of the image's area in a training crop (TorchMultimodal's
    examples/flava: 0.9 to 1)."""
    flip_probability: Fraction = 0.0
    """Probability that an image is mirrored, for encoder and codebook alike (BEiT: 0.5)."""
    colour_jitter: Fraction = 0.0
    """Largest change of brightness, contrast and saturation, for encoder and codebook alike (BEiT:
    0.4)."""
    stored_codes: str | None = None
    """Name of the codes in the shards, which `flava data tokenize` wrote and printed. They are used
    instead of computing codes with the codebook in every step. Since they belong to whole images,
    crop_scale must be 1 1, and flip_probability and colour_jitter 0."""
    reduced_decoding: bool = False
    """Decode a JPEG at a half, a quarter or an eighth of its size if every crop then still has
    twice the height and width that it is resized to. This is two to four times as fast for photos
    of 1,400 pixels and more; pixel values differ by about one level. Stored codes and evaluation
    always come from images that are decoded in full."""

    @property
    def grid(self) -> int:
        """Patches, hence codes, a side."""
        return self.codebook_size // CODE_PIXELS

    def reduction(self, width: int, height: int) -> int:
        """By what a JPEG's sides may be divided, so that no random crop has too few pixels."""
        if not self.reduced_decoding:
            return 1
        least = REDUCING_GAP * max(self.image_size, self.codebook_size)
        shortest = _shortest_side(width, height, self.crop_scale)
        return next((factor for factor in REDUCTIONS if shortest >= factor * least), 1)

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields or elements; see `config_errors`."""
        found = []
        if self.grid > 0 and self.image_size % self.grid:
            found.append(
                f"{prefix}image_size is {self.image_size}: use a multiple of the {self.grid} "
                f"patches a side that {prefix}codebook_size {self.codebook_size} means"
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            found.append(f"{prefix}crop_scale is {self.crop_scale}: use 0 < low <= high <= 1")
        if self.stored_codes is not None:
            whole = {"crop_scale": (1.0, 1.0), "flip_probability": 0.0, "colour_jitter": 0.0}
            found += [
                f"{prefix}{name} is {value}: use {wanted} with {prefix}stored_codes, which are of "
                "whole images"
                for name, wanted in whole.items()
                if (value := getattr(self, name)) != wanted
            ]
        return found


def _shortest_side(width: int, height: int, scale: tuple[float, float]) -> float:
    """The shortest side of all boxes that ``_random_crop`` may draw, in pixels."""
    return min(float(width), float(height), math.sqrt(width * height * scale[0] * CROP_RATIO[0]))


def _random_crop(
    rng: np.random.Generator, size: tuple[int, int], scale: tuple[float, float]
) -> Box:
    """A box drawn as torchvision's ``RandomResizedCrop`` draws it, but from a sample's own ``rng``.

    ``size`` is the image's width and height. The area is uniform in ``scale``, the aspect ratio
    log-uniform in [3/4, 4/3]. When ten draws do not fit the image, the largest central box of an
    allowed ratio is returned.
    """
    width, height = size
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for area_draw, ratio_draw, left_draw, top_draw in rng.random((CROP_TRIES, 4)).tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        ratio = math.exp(low + (high - low) * ratio_draw)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * CROP_RATIO[1])))
    h = min(height, max(1, round(width / CROP_RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cropped(
    rng: np.random.Generator, image: Uint8Image, scale: tuple[float, float]
) -> UInt8[np.ndarray, "crop_height crop_width 3"]:
    """The part of the image in a box that ``_random_crop`` draws."""
    height, width, _ = image.shape
    left, top, right, bottom = _random_crop(rng, (width, height), scale)
    return np.ascontiguousarray(image[top:bottom, left:right])


def resize(
    image: Uint8Image, config: ImageTransformConfig
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "codebook codebook 3"]]:
    """The encoder's (bicubic) and the codebook's (Lanczos) view of one RGB image."""
    codebook_view = resize_for_codebook(image, config.codebook_size)
    return resize_for_encoder(image, config.image_size), codebook_view


def resize_for_codebook(image: Uint8Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The codebook's view of one RGB image: straight to a square of ``size`` pixels, Lanczos."""
    return _lanczos(image, size)


def resize_for_encoder(image: Uint8Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The encoder's view of one RGB image: straight to a square of ``size`` pixels, bicubic."""
    return _bicubic(image, size)


def normalise(pixels: UInt8[np.ndarray, "batch h w 3"]) -> Float[Tensor, "batch 3 h w"]:
    """The image encoder's pixels: [0, 1] less CLIP's mean, over its deviation, for each channel."""
    mean, std = torch.tensor([CLIP_MEAN, CLIP_STD])[..., None, None]
    return _unit(pixels).sub_(mean).div_(std)


def for_codebook(pixels: UInt8[np.ndarray, "batch h w 3"]) -> Float[Tensor, "batch 3 h w"]:
    """The codebook's pixels: [0, 1] mapped by DALL-E's pixel map."""
    return map_pixels(_unit(pixels))


def evaluation_pixels(
    images: Sequence[Image.Image], config: ImageTransformConfig
) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch 3 codebook_h codebook_w"]]:
    """Normalised pixels and codebook pixels of PIL images, with nothing drawn at random.

    As in the published processor, images are resized straight to a square of ``image_size``, so
    that its centre crop changes nothing, and the codebook's pixels come from the original image.
    """
    both = [resize(np.array(to_rgb(image)), config) for image in images]
    shapes = [(0, size, size, 3) for size in (config.image_size, config.codebook_size)]
    encoder, codebook = (
        np.stack([pair[i] for pair in both]) if both else np.zeros(shapes[i], np.uint8)
        for i in range(2)
    )
    return normalise(encoder), for_codebook(codebook)


def _unit(pixels: UInt8[np.ndarray, "batch h w 3"]) -> Float[Tensor, "batch 3 h w"]:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)

"""DINO's multi-crop: two large crops of each image and several small ones, each augmented.

The augmentations, their order and probabilities are those of facebookresearch/dino's
``main_dino.py`` (``DataAugmentationDINO``), on PIL images as there. torchvision draws from torch's
global generator, which is seeded for each sample from the sample's own generator, and put back
afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from flava.core.batch import CropBatch
from flava.data.collate import Collator
from flava.data.samples import image_of
from flava.data.shards import RawSample
from flava.data.transforms import normalise

if TYPE_CHECKING:
    from torchvision.transforms import v2

GLOBAL_CROPS = 2
"""The crops that the teacher sees (Caron et al. 2021, section 3.1)."""
FLIP, JITTER, GREY = 0.5, 0.8, 0.2
"""Probabilities, for every crop, of a flip, of changed colours, and of grey."""
STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
"""The largest changes of the colours, as torchvision's ``ColorJitter`` takes them."""
BLUR, SOLARISE = (1.0, 0.1), (0.0, 0.2)
"""Probabilities for the first and the second global crop."""
LOCAL_BLUR, LOCAL_SOLARISE = 0.5, 0.0
"""Probabilities for a local crop."""
BLUR_RADII = (0.1, 2.0)
"""Range of the blur's standard deviation, in pixels."""
SOLARISE_FROM = 128
"""Brighter values are inverted: the default of PIL's ``ImageOps.solarize``."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The crops of an image; the defaults are those of ``main_dino.py``."""

    global_size: PositiveInt = 224
    """Height and width of the two global crops, in pixels."""
    local_size: PositiveInt = 96
    """Height and width of the local crops, in pixels."""
    local_crops: NonNegativeInt = 8
    """Number of local crops; with 0 there are only the global ones."""
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Smallest and largest share of the image's area in a global crop."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Smallest and largest share of the image's area in a local crop."""

    def mistakes(self, prefix: str) -> list[str]:
        """Ranges that are none; see `config_errors`."""
        return [
            f"{prefix}{name} is {(low, high)}: use 0 < low <= high <= 1"
            for name, (low, high) in (
                ("global_scale", self.global_scale),
                ("local_scale", self.local_scale),
            )
            if not 0 < low <= high <= 1
        ]


CropPixels = UInt8[np.ndarray, "crops size size 3"]


@dataclass(frozen=True)
class CropExample:
    """The crops of one image."""

    key: str
    global_crops: UInt8[np.ndarray, "global size size 3"]
    local_crops: UInt8[np.ndarray, "local local_size local_size 3"]


@dataclass(frozen=True)
class CropCollator(Collator[RawSample, CropExample]):
    """All crops of each image."""

    config: CropConfig

    def decode(self, raw: RawSample, rng: np.random.Generator) -> CropExample:
        image, config = image_of(raw), self.config
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's generator is seeded: torch.manual_seed would seed a GPU's too.
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            first, second, local = _transforms(config)
            return CropExample(
                raw.key,
                _stacked([first(image), second(image)], config.global_size),
                _stacked([local(image) for _ in range(config.local_crops)], config.local_size),
            )

    def collate(self, examples: Sequence[CropExample], _rng: np.random.Generator) -> CropBatch:
        return CropBatch(
            keys=tuple(example.key for example in examples),
            global_crops=_batched([example.global_crops for example in examples]),
            local_crops=_batched([example.local_crops for example in examples]),
        )


def _stacked(crops: Sequence[Image.Image], size: int) -> CropPixels:
    """The crops' pixels in one array; ``size`` gives its shape if there are none."""
    return (
        np.stack([np.asarray(crop) for crop in crops])
        if crops
        else np.zeros((0, size, size, 3), np.uint8)
    )


def _batched(images: Sequence[CropPixels]) -> Float[Tensor, "crops batch 3 size size"]:
    """An image's crops from each item -> normalised, with the crops in front of the batch."""
    pixels = np.stack(images, axis=1)
    flat = pixels.reshape(-1, *pixels.shape[2:])
    return normalise(flat).unflatten(0, pixels.shape[:2])


@lru_cache
def _transforms(config: CropConfig) -> tuple["v2.Transform", "v2.Transform", "v2.Transform"]:
    """The transforms that make the first global crop, the second, and a local crop."""
    size, scale = config.global_size, config.global_scale
    return (
        _view(size, scale, BLUR[0], SOLARISE[0]),
        _view(size, scale, BLUR[1], SOLARISE[1]),
        _view(config.local_size, config.local_scale, LOCAL_BLUR, LOCAL_SOLARISE),
    )


def _view(
    size: int, scale: tuple[float, float], blur_probability: float, solarise: float
) -> "v2.Transform":
    # Imported here because it takes a second, and most commands make no such crops.
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(FLIP),
            v2.RandomApply([v2.ColorJitter(**STRENGTHS)], JITTER),
            v2.RandomGrayscale(GREY),
            v2.RandomApply([v2.Lambda(_blur)], blur_probability),
            v2.RandomSolarize(SOLARISE_FROM, solarise),
        ]
    )


def _blur(image: Image.Image) -> Image.Image:
    """PIL's Gaussian blur with a random radius, as published; torchvision's has a fixed window."""
    radius = torch.empty(()).uniform_(*BLUR_RADII).item()
    return image.filter(ImageFilter.GaussianBlur(radius))

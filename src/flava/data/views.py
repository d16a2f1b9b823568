"""How models see images: resizing, cropping and scaling as published for each kind of model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from flava.core.batch import LOGIT_LAPLACE_EPS
from flava.data.errors import SampleError
from flava.data.transforms import CLIP_MEAN, CLIP_STD

Size = tuple[int, int]
"""Height and width in pixels."""
Channels = tuple[float, float, float]

MOST_PIXELS = 2**26
"""Pixels that a resized image may have before it is cropped: 192 MB."""


@dataclass(frozen=True, kw_only=True)
class View:
    """An image resized, cropped at its centre, and its values scaled; the default is FLAVA's.

    In the order of Hugging Face's image processors, and equal to them (PIL backend).
    """

    size: Size | int
    """Height and width to resize to; or the shorter side alone, which keeps the aspect ratio."""
    crop: Size
    """Height and width of the part that is cut out of the middle, which the model sees. If the
    resized image is smaller, it is padded with black."""
    resample: Image.Resampling = Image.Resampling.BICUBIC
    """The filter."""
    scale: float = 1 / 255
    """Values from 0 to 255 are multiplied by this first."""
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    """Then the mean is subtracted, and the rest divided by this."""
    mapped: bool = False
    """Whether [0, 1] is mapped to DALL-E's [0.1, 0.9] at the end."""

    def transform(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """An RGB image resized and cropped, as uint8.

        Raises:
            SampleError: the image is so narrow that the resized one would not fit into memory.
        """
        height, width = self.resized(image)
        if height * width > MOST_PIXELS:
            raise SampleError(
                "image is too narrow",
                f"{image.width}x{image.height} pixels would become {width}x{height}: crop it",
            )
        view = image.resize((width, height), self.resample)
        # Rounded down, also below zero: as the published processors.
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        if (top, left, height, width) != (0, 0, *self.crop):
            view = view.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(view)

    def resized(self, image: Image.Image) -> Size:
        """The height and width that an image is resized to."""
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted(image.size)
        scaled = int(self.size * long / short)
        return (scaled, self.size) if image.width <= image.height else (self.size, scaled)

    def normalise(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images that ``transform`` made, as the model's pixels."""
        stacked = np.stack(images) if len(images) else np.zeros((0, *self.crop, 3), np.uint8)
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float()
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)[..., None, None]
        shrink = 1 - 2 * LOGIT_LAPLACE_EPS
        slope, offset = self.scale / std, -mean / std
        if self.mapped:
            slope, offset = shrink * slope, shrink * offset + LOGIT_LAPLACE_EPS
        return pixels.mul_(slope.float()).add_(offset.float())

    def of_size(self, size: Size) -> "View":
        """The same view for a model that sees images of another size."""
        return replace(self, size=size if isinstance(self.size, tuple) else min(size), crop=size)


def encoder_view(size: int) -> View:
    """The view of FLAVA's image encoder, unless its files say otherwise: the image as a square."""
    return View(size=(size, size), crop=(size, size))


def codebook_view(size: Size) -> View:
    """The view of the dVAE, unless the files say otherwise."""
    return View(
        size=size,
        crop=size,
        resample=Image.Resampling.LANCZOS,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        mapped=True,
    )


def clip_view(size: int) -> View:
    """CLIP's view: the shorter side resized, and the middle cut out (openai/CLIP, `clip.py`)."""
    return View(size=size, crop=(size, size))

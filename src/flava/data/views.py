"""How images are turned into pixels: the encoder's view of an image, and the codebook's."""

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

Side = tuple[int, int]
"""Height and width in pixels."""
Channels = tuple[float, float, float]

MOST_PIXELS = 2**26
"""Of a resized image, most of which is then cut away: 192 MB."""


@dataclass(frozen=True, kw_only=True)
class View:
    """An image resized, cropped at its centre, and its values scaled; the default is FLAVA's.

    In the order of Hugging Face's image processors, and equal to them (PIL backend).
    """

    size: Side | int
    """Height and width to resize to; or of the shorter side, which keeps the image's shape."""
    crop: Side
    """Height and width of what is cut out of the middle: what the model sees. Where the resized
    image is smaller, black is around it."""
    resample: Image.Resampling = Image.Resampling.BICUBIC
    """The filter."""
    scale: float = 1 / 255
    """Levels are multiplied with this first."""
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD
    """Then the mean is subtracted, and the rest divided by this."""
    mapped: bool = False
    """Whether [0, 1] is mapped to DALL-E's [0.1, 0.9] after all."""

    def levels(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """An RGB image resized and cropped.

        Raises:
            SampleError: the image is so narrow that the resized one would not fit into memory.
        """
        height, width = self.resized(image)
        if height * width > MOST_PIXELS:
            raise SampleError(
                "image is too narrow",
                f"{image.width}x{image.height} pixels would become {width}x{height}: crop it",
            )
        seen = image.resize((width, height), self.resample)
        # Rounded down, also below zero: as the published processors.
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        if (top, left, height, width) != (0, 0, *self.crop):
            seen = seen.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return np.asarray(seen)

    def resized(self, image: Image.Image) -> Side:
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted(image.size)
        scaled = int(self.size * long / short)
        return (scaled, self.size) if image.width <= image.height else (self.size, scaled)

    def normalise(
        self, levels: Sequence[UInt8[np.ndarray, "height width 3"]]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Many images' levels as the model's pixels."""
        stacked = np.stack(levels) if len(levels) else np.zeros((0, *self.crop, 3), np.uint8)
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float()
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)[..., None, None]
        shrink = 1 - 2 * LOGIT_LAPLACE_EPS
        slope, offset = self.scale / std, -mean / std
        if self.mapped:
            slope, offset = shrink * slope, shrink * offset + LOGIT_LAPLACE_EPS
        return pixels.mul_(slope.float()).add_(offset.float())

    def of_size(self, size: Side) -> "View":
        """The same view at another size of what the model sees."""
        return replace(self, size=size if isinstance(self.size, tuple) else min(size), crop=size)


def encoder_view(size: int) -> View:
    """What FLAVA's image encoder sees unless its files say otherwise: the whole image, squared."""
    return View(size=(size, size), crop=(size, size))


def codebook_view(size: Side) -> View:
    """What the dVAE sees unless the files say otherwise, from the same image."""
    return View(
        size=size,
        crop=size,
        resample=Image.Resampling.LANCZOS,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        mapped=True,
    )


def clip_view(size: int) -> View:
    """What CLIP sees: the image's middle, its shorter side resized (openai/CLIP, `clip.py`)."""
    return View(size=size, crop=(size, size))

"""Pixels as pictures, and pictures with hidden patches."""

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

HIDDEN_GREY = 0.6
"""The grey, of [0, 1], that stands for a hidden patch."""


def to_picture(pixels: Float[Tensor, "3 height width"]) -> Image.Image:
    """Pixels in [0, 1] as an image; what is outside is clamped."""
    eight_bits = (pixels.float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(eight_bits.permute(1, 2, 0).cpu().numpy())


def paste(
    below: Float[Tensor, "n 3 h w"],
    above: Float[Tensor, "n 3 h w"],
    selected: Bool[Tensor, "n rows columns"],
) -> Float[Tensor, "n 3 h w"]:
    """``above`` at the selected patches, ``below`` elsewhere."""
    size = below.shape[-1] // selected.shape[-1]
    mask = selected.repeat_interleave(size, dim=1).repeat_interleave(size, dim=2)
    return torch.where(mask[:, None], above, below)

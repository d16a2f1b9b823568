"""What BEiT does to an image before its two views are cut from it: colour jitter and flip."""

import numpy as np
from PIL import Image, ImageEnhance

JITTERED = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
"""Brightness, contrast and saturation: all that BEiT's ``ColorJitter(0.4, 0.4, 0.4)`` changes."""


def jitter_colours(rng: np.random.Generator, image: Image.Image, strength: float) -> Image.Image:
    """Each of ``JITTERED`` by a factor uniform in 1 +- ``strength``, in random order.

    torchvision's ``ColorJitter`` with three equal strengths and no change of hue. Nothing is drawn
    at strength 0.
    """
    if not strength:
        return image
    factors = rng.uniform(1 - strength, 1 + strength, len(JITTERED)).tolist()
    for place in rng.permutation(len(JITTERED)).tolist():
        image = JITTERED[place](image).enhance(factors[place])
    return image


def flip_at_random(rng: np.random.Generator, image: Image.Image, probability: float) -> Image.Image:
    """Left and right exchanged with that probability. Nothing is drawn at 0."""
    if probability and rng.random() < probability:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image

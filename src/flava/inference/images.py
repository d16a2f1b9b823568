"""Whatever a user has for an image, as an upright RGB image of PIL's."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from flava.data.decoding import decode_image, to_rgb
from flava.data.errors import SampleError

ImageLike = Image.Image | np.ndarray | Tensor | str | Path | bytes
"""A PIL image, an array or tensor (see ``from_array``), a file's path, or a file's bytes."""

Images = Sequence[ImageLike] | np.ndarray | Tensor
"""Many images: a list of any of those, or one array of ``images height width channels``."""

CHANNELS = (1, 3, 4)
"""Grey, RGB, RGB with transparency."""
HALF_LEVEL = 0.5 / 255
"""How far a float may be outside [0, 1]: it still rounds to a level."""


def image_list(images: Images) -> Sequence[ImageLike]:
    """The images one by one.

    Raises:
        ValueError: it is one image, not a list of images.
    """
    one = isinstance(images, Image.Image | str | Path | bytes)
    if isinstance(images, np.ndarray | Tensor):
        one = images.ndim != 4
        images = list(images)
    if one:
        raise ValueError("images is a single image: give a list of images, [image]")
    return images


def open_image(image: ImageLike) -> Image.Image:
    """The image upright in RGB: see ``flava.data.decoding.to_rgb`` and ``from_array``.

    Raises:
        SampleError: it cannot be read, decoded or understood, or is too large.
    """
    match image:
        case Image.Image():
            return to_rgb(image)
        case bytes():
            return decode_image(image)
        case str() | Path():
            return open_file(Path(image))
        case Tensor():
            # numpy knows no bfloat16.
            held = image.detach().cpu()
            return from_array((held.float() if held.is_floating_point() else held).numpy())
        case np.ndarray():
            return from_array(image)
    raise SampleError(
        "not an image",
        f"{type(image).__name__}: give a PIL image, an array, a tensor, a path or a file's bytes",
    )


def open_file(path: Path) -> Image.Image:
    try:
        return decode_image(path.expanduser().read_bytes())
    except SampleError as error:
        raise SampleError(error.reason, f"{path}: {error.detail}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SampleError("image cannot be read", f"{os.fspath(path)!r}: {reason}") from error


def from_array(array: np.ndarray) -> Image.Image:
    """Pixels as PIL's image: ``height width``, or with 1, 3 or 4 channels, first or last.

    Where both the first and the last side could be channels, the first is taken for them, as the
    published processor does. Whole numbers are levels of 255, of unsigned 16 bits of 65,535; floats
    are in [0, 1] and rounded to the nearest level; True is white.

    Raises:
        SampleError: another shape, or values outside these ranges.
    """
    levels = to_levels(array)
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
    grey = levels.shape[-1] == 1
    return to_rgb(Image.fromarray(np.ascontiguousarray(levels[..., 0] if grey else levels)))


def to_levels(array: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Values as levels from 0 to 255."""
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

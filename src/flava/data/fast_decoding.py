"""Image files decoded to uint8 arrays, for training: the pixels of ``decode_image``, in less time.

torchvision decodes JPEG straight into an array, while PIL's images have to be copied into one. Both
use libjpeg-turbo, and the pixels are the same bit for bit. PIL reads every header, so that the same
files are refused either way, and decodes whatever is not a plain JPEG.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from flava.data.decoding import UPRIGHT_BY, open_image, orientation, to_rgb
from flava.data.samples import image_file_of
from flava.data.shards import RawSample

Uint8Image = UInt8[np.ndarray, "height width 3"]
"""An RGB image."""


Reduction = Callable[[int, int], int]
"""An image's width and height -> the number its sides are divided by in decoding: 1, 2, 4 or 8."""


def decode_uint8(
    data: bytes, reduction: Reduction | None = None, *, upright: bool = True
) -> Uint8Image:
    """An image file as ``decode_image`` reads it.

    Args:
        reduction: Of a JPEG, fewer frequencies are decoded, which divides its sides, rounded up.
            Other formats are decoded in full.
        upright: Whether the image is turned as its EXIF says, or left as it is stored.

    Raises:
        SampleError: as ``decode_image``; images that are too large are refused even if they would
            be reduced.
    """
    image = open_image(data)
    if reduction is not None and (factor := reduction(*image.size)) > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    elif _is_plain_jpeg(image, upright) and (pixels := _decode_jpeg(data)) is not None:
        return pixels
    return np.array(to_rgb(image, upright=upright))


def _is_plain_jpeg(image: Image.Image, upright: bool) -> bool:
    """Whether a file is a JPEG in RGB or grey, of a single picture, that need not be turned."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    return not upright or orientation(image) not in UPRIGHT_BY


def _decode_jpeg(data: bytes) -> Uint8Image | None:
    """A JPEG by torchvision, or None if it cannot decode it.

    PIL reads some damaged files that torchvision does not, and says what is wrong with others.
    Where both read a damaged file they agree, and libjpeg writes a line about it to stderr.
    """
    decode = _torchvision_jpeg_decoder()
    if decode is None:
        return None
    try:
        planes: Any = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None
    return planes.permute(1, 2, 0).numpy()


@lru_cache
def _torchvision_jpeg_decoder() -> Callable[[Tensor], Any] | None:
    """A function from a JPEG's bytes to a tensor (3, height, width), channels last in memory.

    None if torchvision has none: its release 0.29 announces the end of it. PIL then does the same,
    in 0.2 ms more for 500x375 pixels. It is imported here because that takes a second, which other
    formats need not spend.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        return None
    return partial(decode_jpeg, mode=ImageReadMode.RGB)


def decode_sample(raw: RawSample, reduction: Reduction | None = None) -> Uint8Image:
    """The sample's image, decoded as by ``decode_uint8``.

    Raises:
        SampleError: it has none, or ``decode_uint8`` fails.
    """
    return decode_uint8(image_file_of(raw), reduction)

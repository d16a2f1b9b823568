"""Image files to uint8 arrays: the pixels of ``decode_image``, in less time.

torchvision decodes JPEG straight into an array, where PIL's images have to be copied; both do it by
libjpeg-turbo, bit for bit alike. PIL reads every header, so that both refuse the same files, and
decodes all that is not a plain JPEG.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from flava.data.decoding import TURNS, open_image, orientation, to_rgb
from flava.data.samples import image_file_of
from flava.data.shards import RawSample

Uint8Image = UInt8[np.ndarray, "height width 3"]
"""An RGB image."""


Reduction = Callable[[int, int], int]
"""By what to divide the sides of an image of such width and height while decoding: 1, 2, 4 or 8."""


def decode_levels(
    data: bytes, reduction: Reduction | None = None, *, upright: bool = True
) -> Uint8Image:
    """An image file as ``decode_image`` reads it.

    Args:
        reduction: Of JPEG, fewer of the frequencies are decoded: sides of a half, a quarter or an
            eighth, rounded up. Other formats are decoded whole.
        upright: Turned as EXIF says; if not, as it is stored.

    Raises:
        SampleError: as ``decode_image``; what is too large is refused also if it would be reduced.
    """
    image = open_image(data)
    if reduction is not None and (factor := reduction(*image.size)) > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    elif is_plain_jpeg(image, upright) and (levels := decode_jpeg(data)) is not None:
        return levels
    return np.array(to_rgb(image, upright=upright))


def is_plain_jpeg(image: Image.Image, upright: bool) -> bool:
    """RGB or grey (not CMYK, nor several pictures in one file), and not to be turned."""
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    return not upright or orientation(image) not in TURNS


def decode_jpeg(data: bytes) -> Uint8Image | None:
    """None if torchvision cannot: PIL reads some of what is damaged, and says what is wrong.

    Where both read a damaged file they agree, and libjpeg writes a line on it to stderr.
    """
    decode = torchvisions()
    if decode is None:
        return None
    try:
        planes: Any = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None
    return planes.permute(1, 2, 0).numpy()


@lru_cache
def torchvisions() -> Callable[[Tensor], Any] | None:
    """A JPEG's bytes to a tensor of (3, height, width) levels, channels last in memory.

    None if there is no such function: torchvision 0.29 announces its end, and PIL does as well, in
    0.2 ms more for 500x375 pixels. Imported here: it takes a second, and other formats do without.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        return None
    return partial(decode_jpeg, mode=ImageReadMode.RGB)


def levels_of(raw: RawSample, reduction: Reduction | None = None) -> Uint8Image:
    """The sample's image, as ``flava.data.samples.image_of`` reads it: see ``decode_levels``.

    Raises:
        SampleError: it has none, or ``decode_levels`` fails.
    """
    return decode_levels(image_file_of(raw), reduction)

"""Which image files are read, and how PIL decodes them to RGB images.

This module does without PyTorch, which building data has no other use for. Training decodes by
`flava.data.fast_decoding`, which gives the same pixels in less time.
"""

import io

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from flava.data.errors import SampleError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read. PIL knows many more, which are seldom used or run programs (EPS)."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Names of image files end so; every reader of folders, tars and tables takes these for images."""
ORIENTATION = 0x0112
"""EXIF's tag that says how the camera was held."""
UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Values of ORIENTATION, and what brings the image upright (EXIF 2.3, table 6).

``PIL.ImageOps.exif_transpose`` turns in the same way, but it also writes EXIF anew, and so fails on
images whose EXIF is damaged elsewhere; and it copies images that are upright already.
"""


def is_image(name: str) -> bool:
    """Whether a file is an image by its name's ending, in capitals or not."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def decode_image(data: bytes) -> Image.Image:
    """An image file, of an animation the first frame, as an upright RGB image: see ``to_rgb``.

    Raises:
        SampleError: not an image of ``FORMATS``, truncated, or larger than PIL's limit against
            decompression bombs (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    return to_rgb(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """An image file; only its header is read, and the pixels when they are needed.

    Raises:
        SampleError: it is no image of ``FORMATS``, or has no pixel, or more than PIL's limit.
    """
    if not data:
        raise SampleError("image cannot be decoded", "it is empty, zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise SampleError("image cannot be decoded", f"none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise SampleError("image is too large", str(error)) from error
    except Exception as error:  # PIL's plugins raise almost any type when a file is malformed.
        raise SampleError("image cannot be decoded", str(error)) from error
    _check_size(image)
    return image


def to_rgb(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """Any PIL image upright, as its EXIF orientation says, in RGB, eight bits a channel.

    If not ``upright``, it stays as it is stored.

    Every mode becomes RGB as by PIL's ``_convert("RGB")``, which is what the published processors
    do with files: transparency is dropped, not composited. Sixteen-bit greys are scaled to eight
    first. Larger files than PIL's limit are refused, not reduced while decoding, which would give
    other pixels, and in a progressive JPEG would need the memory all the same.

    Raises:
        SampleError: it is read from a file, and that is truncated or too large; or it has no pixel,
            or a mode that PIL cannot convert.
    """
    _check_size(image)
    try:
        image.load()
        turn = UPRIGHT_BY.get(orientation(image)) if upright else None
        rgb = image if image.mode == "RGB" else _convert(image)
        return rgb if turn is None else rgb.transpose(turn)
    except Exception as error:  # PIL raises any type here too.
        raise SampleError("image cannot be decoded", str(error)) from error


def _check_size(image: Image.Image) -> None:
    """Raises SampleError: it has no pixel; or it is a file, and has more than PIL's limit."""
    if 0 in image.size:
        raise SampleError("image has no pixels", f"{image.width}x{image.height}")
    limit = Image.MAX_IMAGE_PIXELS
    is_file = isinstance(image, ImageFile.ImageFile)
    if is_file and limit is not None and image.width * image.height > limit:
        raise SampleError(
            "image is too large",
            f"{image.width}x{image.height} pixels, over PIL.Image.MAX_IMAGE_PIXELS = {limit}: "
            "make it smaller, or raise that limit if you trust the file",
        )


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 if there is none that can be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # PIL raises any type here too, and the image itself may be whole.
        return 1


def _convert(image: Image.Image) -> Image.Image:
    """As PIL's ``_convert("RGB")``, but for sixteen-bit greys."""
    if image.mode.startswith("I"):  # convert() would clip sixteen bits at 255, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # the same colours, without a warning
        image = image.convert("RGBA")
    return image.convert("RGB")

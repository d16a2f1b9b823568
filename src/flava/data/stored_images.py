"""RGB images from the forms in which data sets store them: files, arrays of uint8, videos."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image

from flava.data import decoding
from flava.data.errors import SampleError

Places = Int[np.ndarray, "_"]
"""Indices of images in their data set, ascending."""


@runtime_checkable
class StoredImages(Protocol):
    """Paths of files, or arrays of uint8: a list, an array, a data set within an HDF5 file."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Any: ...


VIDEO_SUFFIX = ".avi"


def open_image(image: Path | bytes | np.ndarray, *, upright: bool = False) -> Image.Image:
    """An RGB image from a file, of a video the middle frame, or from uint8 (h, w) or (h, w, 3).

    Unless ``upright`` is asked for, files are not turned as their EXIF says: torchvision's readers,
    on whose images the protocols' figures stand, do not turn them (``datasets.folder.pil_loader``).

    Raises:
        SampleError: it cannot be read or decoded.
    """
    if isinstance(image, np.ndarray):
        return decoding.to_rgb(Image.fromarray(image))
    if isinstance(image, bytes):
        return decoding.to_rgb(decoding.open_image(image), upright=upright)
    if image.suffix == VIDEO_SUFFIX:
        return _middle_frame(image)
    try:
        return open_image(image.read_bytes(), upright=upright)
    except OSError as error:
        raise SampleError("image cannot be read", f"{image}: {error.strerror}") from error


def _middle_frame(path: Path) -> Image.Image:
    """Of a video of n frames, counted from 0, frame n // 2.

    It is decoded by PyAV, which uses FFmpeg; torchvision no longer decodes videos. Headers of AVI
    files may count frames wrongly, and key frames lie far apart, so all frames are decoded to count
    them: a video of UCF101 has some 190 of 320x240 pixels.

    Raises:
        SampleError: it cannot be read or decoded, or has no frame.
        ValueError: PyAV is not installed.
    """
    try:  # here, since only one data set needs it
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise ValueError("videos need PyAV: pip install 'flava[suite]'") from error

    try:
        with av.open(path) as container:
            frames = list(container.decode(video=0))
    except (OSError, IndexError, FFmpegError) as error:
        raise SampleError("video cannot be decoded", f"{path}: {error}") from error
    if not frames:
        raise SampleError("video cannot be decoded", f"{path} has no frame")
    return frames[len(frames) // 2].to_image()

"""A data set of images on disk: its splits, and its files decoded."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image
from torch.utils.data import ConcatDataset

from flava.core.randomness import generator
from flava.data import decoding
from flava.data.errors import SampleError

Places = Int[np.ndarray, "_"]
"""Places in the data set, ascending."""

VALIDATION_SHARE = 1 / 5
"""Share of each class that validates where the data set does not say. CLIP (appendix A.3) splits
the training samples then, and does not tell how."""

SHOWN = 20
"""Mistakes of one kind that are named; the others are counted."""


@runtime_checkable
class Images(Protocol):
    """Files' paths or arrays of levels: a list, an array, a data set within an HDF5 file."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Any: ...


@dataclass(frozen=True)
class Samples:
    """Images, and the number of each one's class."""

    images: Images
    labels: Int[np.ndarray, " samples"]


@dataclass(frozen=True)
class Fold:
    """Which samples train, validate and test; ``validation`` is None where it is to be drawn."""

    train: Places
    validation: Places | None
    test: Places

    @property
    def drawn(self) -> Places:
        """Those of the validation part, which by then is known."""
        assert self.validation is not None
        return self.validation


@dataclass(frozen=True)
class Collection:
    """All samples of a data set, and its folds: most have one."""

    samples: Samples
    folds: tuple[Fold, ...]


def from_parts(train: Samples, test: Samples, validation: Samples | None = None) -> Collection:
    """A collection of one fold from what the data set itself divides."""
    parts = [part for part in (train, validation, test) if part is not None]
    ends = np.cumsum([0, *(len(part.labels) for part in parts)])
    places = [np.arange(*bounds) for bounds in pairwise(ends)]
    samples = Samples(
        ConcatDataset([part.images for part in parts]),  # pyright: ignore[reportArgumentType]
        np.concatenate([part.labels for part in parts]),
    )
    middle = places[1] if validation is not None else None
    return Collection(samples, (Fold(places[0], middle, places[-1]),))


def prepare(collection: Collection, name: str, seed: int, few: int | None) -> tuple[Fold, ...]:
    """The folds with a validation part each, and no part larger than ``few``; drawn by the seed."""
    labels = collection.samples.labels
    folds = []
    for number, fold in enumerate(collection.folds):
        if fold.validation is None:
            rng = generator(seed, number, f"validation of {name}")
            held = draw(labels, fold.train, VALIDATION_SHARE, rng)
            fold = replace(fold, train=np.setdiff1d(fold.train, held), validation=held)
        if few is not None:
            rng = generator(seed, number, f"few of {name}")
            fold = Fold(*(few_of(part, few, rng) for part in (fold.train, fold.drawn, fold.test)))
        folds.append(fold)
    return tuple(folds)


def draw(labels: np.ndarray, places: Places, share: float, rng: np.random.Generator) -> Places:
    """That share of each class, rounded, but one at least where there are two."""
    drawn = []
    for label in np.unique(labels[places]):
        members = places[labels[places] == label]
        count = round(share * len(members)) or int(len(members) > 1)
        drawn.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(drawn))


def few_of(places: Places, few: int, rng: np.random.Generator) -> Places:
    """As many of them, or all if there are not so many."""
    return np.sort(rng.permutation(places)[:few])


def absent(samples: Samples) -> list[str]:
    """The images that are named by the data set's lists and are not there."""
    lost = [path for path in images_on_disk(samples) if not path.is_file()]
    return [f"{path} is missing" for path in lost]


def repeated(samples: Samples) -> list[str]:
    """The images that stand in the lists more than once, in one part or in two."""
    counts = Counter(images_on_disk(samples))
    return [f"{path} is listed {count} times" for path, count in counts.items() if count > 1]


def images_on_disk(samples: Samples) -> list[Path]:
    """The paths, of a data set that has one for each image; others have few large files."""
    images = samples.images
    parts = images.datasets if isinstance(images, ConcatDataset) else [images]
    return [path for part in parts if isinstance(part, list) for path in part]


def mistakes(collection: Collection, classes: int) -> list[str]:
    """What keeps a figure from being that of the protocol, a line each."""
    samples = collection.samples
    labels = samples.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    found = shortened(absent(samples)) + shortened(repeated(samples))
    found += shortened(
        [
            f"{named(samples, place)} has the label {labels[place]}: there are {classes} classes, "
            "numbered from 0"
            for place in wrong.tolist()
        ]
    )
    for number, fold in enumerate(collection.folds):
        where = f" of fold {number + 1}" if len(collection.folds) > 1 else ""
        parts = {"training": fold.train, "validation": fold.validation, "test": fold.test}
        for part, places in parts.items():
            if places is not None and (empty := np.setdiff1d(range(classes), labels[places])).size:
                listed = ", ".join(map(str, empty.tolist()))
                found.append(f"the {part} part{where} has no sample of the classes {listed}")
    return found


def named(samples: Samples, place: int) -> str:
    image = samples.images[place]
    return str(image) if isinstance(image, Path) else f"sample {place}"


def shortened(lines: list[str]) -> list[str]:
    """The first lines, and the number of the others."""
    more = len(lines) - SHOWN
    return lines if more < 1 else [*lines[:SHOWN], f"and {more} more of these"]


VIDEO_SUFFIX = ".avi"


def open_image(image: Path | bytes | np.ndarray, *, upright: bool = False) -> Image.Image:
    """An RGB image from a file, of a video the middle frame, or from levels (h, w) or (h, w, 3).

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
        return middle_frame(image)
    try:
        return open_image(image.read_bytes(), upright=upright)
    except OSError as error:
        raise SampleError("image cannot be read", f"{image}: {error.strerror}") from error


def middle_frame(path: Path) -> Image.Image:
    """Of a video of n frames, counted from 0, frame n // 2.

    By PyAV, on FFmpeg's decoders: torchvision gave up decoding videos. AVI's headers may count
    frames wrongly, and its key frames lie far apart, so the frames are counted by decoding: a
    video of UCF101 has some 190 of 320x240 pixels.

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

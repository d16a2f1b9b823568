"""A data set of images on disk: its samples and folds, and the checks of both."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch.utils.data import ConcatDataset

from flava.core.randomness import random_generator
from flava.data.stored_images import Places, StoredImages
from flava.suite.data_mistakes import shortened

VALIDATION_SHARE = 1 / 5
"""Share of each class that validates where the data set has no validation part. CLIP (appendix A.3)
splits the training samples then, and does not tell how."""


@dataclass(frozen=True)
class Samples:
    """Images, and the number of each one's class."""

    images: StoredImages
    labels: Int[np.ndarray, " samples"]


@dataclass(frozen=True)
class Fold:
    """The places of the samples that train, validate and test.

    ``validation`` is None where the data set does not define it, and `prepare` draws it.
    """

    train: Places
    validation: Places | None
    test: Places


@dataclass(frozen=True)
class PreparedFold:
    """A fold whose validation part is known."""

    train: Places
    validation: Places
    test: Places


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


def prepare(
    collection: Collection, name: str, seed: int, few: int | None
) -> tuple[PreparedFold, ...]:
    """The folds with a validation part each, and no part larger than ``few``; drawn by the seed."""
    labels = collection.samples.labels
    folds = []
    for number, fold in enumerate(collection.folds):
        train, validation = fold.train, fold.validation
        if validation is None:
            rng = random_generator(seed, number, f"validation of {name}")
            validation = draw_share(labels, train, VALIDATION_SHARE, rng)
            train = np.setdiff1d(train, validation)
        parts = [train, validation, fold.test]
        if few is not None:
            rng = random_generator(seed, number, f"few of {name}")
            parts = [np.sort(rng.permutation(part)[:few]) for part in parts]
        folds.append(PreparedFold(*parts))
    return tuple(folds)


def draw_share(
    labels: np.ndarray, places: Places, share: float, rng: np.random.Generator
) -> Places:
    """That share of each class, rounded, but one at least where there are two."""
    drawn = []
    for label in np.unique(labels[places]):
        members = places[labels[places] == label]
        count = round(share * len(members)) or int(len(members) > 1)
        drawn.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(drawn))


def missing_images(samples: Samples) -> list[str]:
    """A line for each image that the data set's lists name and that is not there."""
    return [f"{path} is missing" for path in _image_paths(samples) if not path.is_file()]


def _repeated_images(samples: Samples) -> list[str]:
    """A line for each image that is listed more than once, in one part or in two."""
    counts = Counter(_image_paths(samples))
    return [f"{path} is listed {count} times" for path, count in counts.items() if count > 1]


def _image_paths(samples: Samples) -> list[Path]:
    """The files of the images; none of a data set that keeps many images in one file."""
    images = samples.images
    parts = images.datasets if isinstance(images, ConcatDataset) else [images]
    return [path for part in parts if isinstance(part, list) for path in part]


def mistakes(collection: Collection, classes: int) -> list[str]:
    """Why a figure of this collection would not be that of the protocol, a line each."""
    samples = collection.samples
    labels = samples.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    lines = shortened(missing_images(samples)) + shortened(_repeated_images(samples))
    lines += shortened(
        [
            f"{_image_name(samples, place)} has the label {labels[place]}: there are {classes} "
            "classes, numbered from 0"
            for place in wrong.tolist()
        ]
    )
    for number, fold in enumerate(collection.folds):
        where = f" of fold {number + 1}" if len(collection.folds) > 1 else ""
        parts = {"training": fold.train, "validation": fold.validation, "test": fold.test}
        for part, places in parts.items():
            if places is not None and (empty := np.setdiff1d(range(classes), labels[places])).size:
                listed = ", ".join(map(str, empty.tolist()))
                lines.append(f"the {part} part{where} has no sample of the classes {listed}")
    return lines


def _image_name(samples: Samples, place: int) -> str:
    image = samples.images[place]
    return str(image) if isinstance(image, Path) else f"sample {place}"

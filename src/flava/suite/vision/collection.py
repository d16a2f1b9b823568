"""A data set of images on disk: its splits, and its files decoded."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch.utils.data import ConcatDataset

from flava.core.randomness import random_generator
from flava.data.stored_images import Places, StoredImages, shortened

VALIDATION_SHARE = 1 / 5
"""Share of each class that validates where the data set does not say. CLIP (appendix A.3) splits
the training samples then, and does not tell how."""


@dataclass(frozen=True)
class Samples:
    """Images, and the number of each one's class."""

    images: StoredImages
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
            rng = random_generator(seed, number, f"validation of {name}")
            held = draw(labels, fold.train, VALIDATION_SHARE, rng)
            fold = replace(fold, train=np.setdiff1d(fold.train, held), validation=held)
        if few is not None:
            rng = random_generator(seed, number, f"few of {name}")
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

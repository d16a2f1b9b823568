"""Readers of the data sets whose splits torchvision gives.

Each reader takes the folder that torchvision calls ``root``, and a seed for what it draws.
torchvision is imported when it is needed: that takes two seconds. Its readers are asked for paths,
not images (``loader=Path``), so that listing a data set decodes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flava.data.stored_images import Places, StoredImages
from flava.suite.vision.collection import Collection, Fold, Samples, from_parts

ReadCollection = Callable[[Path, int], Collection]
"""(root, seed) -> all samples."""

CLEVR_FEWEST = 3
"""Objects in a scene: 3 to 10 (VTAB's count_all subtracts 3: task_adaptation, data/clevr.py)."""


def samples_of(pairs: Iterable[tuple[Any, int]]) -> Samples:
    """Samples from pairs of a path and a label."""
    paths, labels = [], []
    for path, label in pairs:
        paths.append(Path(path))
        labels.append(int(label))
    return Samples(paths, np.array(labels, np.int64))


def _entries(reader: StoredImages) -> Iterator[tuple[Any, int]]:
    """The items of one of torchvision's readers, which are not declared to be iterable."""
    return (reader[place] for place in range(len(reader)))


def class_folders(*folders: Path, classes: int) -> list[Samples]:
    """Of each folder the images in its subfolders, one a class, numbered in the order of names.

    Raises:
        ValueError: not as many subfolders as classes, or not the same ones.
    """
    from torchvision.datasets import ImageFolder

    readers = [ImageFolder(folder, loader=Path, allow_empty=True) for folder in folders]
    mistakes = [
        f"{folder} has {len(each.classes)} subfolders, not one for each of the {classes} classes"
        for folder, each in zip(folders, readers, strict=True)
        if len(each.classes) != classes
    ]
    mistakes += [
        f"{folder} has other classes than {folders[0]}: {sorted(unshared)}"
        for folder, each in zip(folders, readers, strict=True)
        if (unshared := set(each.classes) ^ set(readers[0].classes))
    ]
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return [samples_of(each.samples) for each in readers]


def imagenet(root: Path, _seed: int) -> Collection:
    """Validation images test, as in the paper: the labels of the test images are not public.

    Unlike torchvision's ``ImageNet``, without the development kit, whose class names are not used,
    and without unpacking archives.
    """
    folders = (root / "imagenet" / part for part in ("train", "val"))
    return from_parts(*class_folders(*folders, classes=1000))


def food101(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import Food101

    return from_parts(
        *(samples_of(_entries(Food101(root, part, loader=Path))) for part in ("train", "test"))
    )


def cifar10(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root)


def cifar100(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, root)


def _cifar(kind: type[Any], root: Path) -> Collection:
    parts = [kind(root, train=train) for train in (True, False)]
    return from_parts(*(Samples(part.data, np.array(part.targets, np.int64)) for part in parts))


def mnist(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import MNIST

    parts = [MNIST(root, train=train) for train in (True, False)]
    return from_parts(*(Samples(part.data.numpy(), part.targets.numpy()) for part in parts))


def cars(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import StanfordCars

    parts = ("train", "test")
    return from_parts(
        *(samples_of(_entries(StanfordCars(root, part, loader=Path))) for part in parts)
    )


def aircraft(root: Path, _seed: int) -> Collection:
    """By variants, a hundred."""
    from torchvision.datasets import FGVCAircraft

    parts = ("train", "test", "val")
    return from_parts(
        *(samples_of(_entries(FGVCAircraft(root, part, loader=Path))) for part in parts)
    )


def dtd(root: Path, _seed: int) -> Collection:
    """The first of its ten partitions: CLIP names two data sets whose splits it averages over,
    and this is not one of them (appendix A.1)."""
    from torchvision.datasets import DTD

    return from_parts(
        *(samples_of(_entries(DTD(root, part, loader=Path))) for part in ("train", "test", "val"))
    )


def pets(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import OxfordIIITPet

    # Its public interface decodes every image to tell a label.
    parts = [OxfordIIITPet(root, part) for part in ("trainval", "test")]
    return from_parts(*(samples_of(zip(p._images, p._labels, strict=True)) for p in parts))


def flowers102(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import Flowers102

    parts = ("train", "test", "val")
    return from_parts(
        *(samples_of(_entries(Flowers102(root, part, loader=Path))) for part in parts)
    )


def stl10(root: Path, _seed: int) -> Collection:
    """Ten folds of 1,000 training samples each; the figure is their mean (appendix A.1)."""
    from torchvision.datasets import STL10

    parts = [STL10(root, part) for part in ("train", "test")]
    images = [part.data.transpose(0, 2, 3, 1) for part in parts]
    labels = [np.asarray(part.labels, np.int64) for part in parts]
    # uint8 - 1: an unknown class, 0 in the file, has become 255.
    whole = from_parts(*(Samples(*each) for each in zip(images, labels, strict=True)))
    lines = (root / "stl10_binary" / "fold_indices.txt").read_text().splitlines()
    train: list[Places] = [np.unique(np.array(line.split(), np.int64)) for line in lines]
    if not train or max(part.max(initial=0) for part in train) >= len(labels[0]):
        raise ValueError("fold_indices.txt names no samples, or more than train_X.bin has")
    test = whole.folds[0].test
    return Collection(whole.samples, tuple(Fold(part, None, test) for part in train))


def gtsrb(root: Path, _seed: int) -> Collection:
    from torchvision.datasets import GTSRB

    # Its public interface decodes every image to tell a label.
    parts = [GTSRB(root, part)._samples for part in ("train", "test")]
    return from_parts(*map(samples_of, parts))


def clevr(root: Path, seed: int) -> Collection:
    """The number of objects, VTAB's count_all, on 2,500 samples as CLIP (appendix A.1, table 9).

    2,000 are drawn from the training scenes, and 500 that test from the validation scenes, since
    the test scenes are not public; CLIP does not tell where its own came from.
    """
    from torchvision.datasets import CLEVRClassification

    from flava.core.randomness import random_generator

    parts = [CLEVRClassification(root, part, loader=Path) for part in ("train", "val")]
    samples = [
        samples_of((path, label - CLEVR_FEWEST) for path, label in _entries(part)) for part in parts
    ]
    rngs = [random_generator(seed, 0, f"{part} scenes of clevr") for part in ("train", "val")]
    drawn = [
        np.sort(rng.permutation(len(each.labels))[:count])
        for each, rng, count in zip(samples, rngs, (2000, 500), strict=True)
    ]
    return from_parts(
        *(
            Samples([each.images[place] for place in places], each.labels[places])
            for each, places in zip(samples, drawn, strict=True)
        )
    )


def rendered_sst2(root: Path, _seed: int) -> Collection:
    folder = root / "rendered-sst2"
    parts = (folder / part for part in ("train", "test", "valid"))
    return from_parts(*class_folders(*parts, classes=2))


def country211(root: Path, _seed: int) -> Collection:
    folder = root / "country211"
    parts = (folder / part for part in ("train", "test", "valid"))
    return from_parts(*class_folders(*parts, classes=211))

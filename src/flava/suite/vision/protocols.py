"""Readers of the data sets whose labels or splits torchvision does not give."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flava.core.randomness import random_generator
from flava.data.stored_images import Places
from flava.suite.vision.collection import Collection, Fold, Samples, draw_share, from_parts
from flava.suite.vision.torchvision_readers import class_folders, samples_of

CALTECH_TRAINING = 30
"""Training images of each class (CLIP, table 9: 3,060 of 102 classes; the other 6,085 test)."""

EUROSAT_TRAINING, EUROSAT_TEST = 10_000 / 27_000, 5_000 / 27_000
"""Shares of the 27,000 images (CLIP, table 9: 10,000 train and 5,000 test)."""

VEHICLES = ("Car", "Van", "Truck")
NEAR, FAR = 8.0, 20.0
"""Metres along the camera's axis: VTAB's closest_vehicle_distance (task_adaptation, kitti.py)."""

TEST_DRIVES = VALIDATION_DRIVES = 10
"""Percent of the drives (TensorFlow Datasets, kitti.py)."""
DRIVES_SEED = 123
"""TensorFlow Datasets' (kitti.py)."""

FER_SIDE = 48
FER_PARTS = ("Training", "PrivateTest", "PublicTest")
"""The column Usage: what trains, tests and validates."""


def caltech101(root: Path, seed: int) -> Collection:
    """102 classes: the backgrounds are one, as in CLIP's table 9 and prompts; torchvision's reader
    leaves them out."""
    folder = root / "caltech101" / "101_ObjectCategories"
    (samples,) = class_folders(folder, classes=102)
    rng = random_generator(seed, 0, "training images of caltech101")
    train = []
    for label in np.unique(samples.labels):
        members = np.flatnonzero(samples.labels == label)
        train.append(rng.permutation(members)[:CALTECH_TRAINING])
    chosen = np.sort(np.concatenate(train))
    test = np.setdiff1d(np.arange(len(samples.labels)), chosen)
    return Collection(samples, (Fold(chosen, None, test),))


def eurosat(root: Path, seed: int) -> Collection:
    """It has no splits: both shares are drawn of each class, and the other images are not used."""
    (samples,) = class_folders(root / "eurosat" / "2750", classes=10)
    rng = random_generator(seed, 0, "splits of eurosat")
    every = np.arange(len(samples.labels))
    test = draw_share(samples.labels, every, EUROSAT_TEST, rng)
    rest = np.setdiff1d(every, test)
    train = draw_share(samples.labels, rest, EUROSAT_TRAINING / (1 - EUROSAT_TEST), rng)
    return Collection(samples, (Fold(train, None, test),))


def sun397(root: Path, _seed: int) -> Collection:
    """The first of the published partitions: 50 images of each class train and 50 test (CLIP,
    table 9: 19,850 each)."""
    folder = root / "SUN397"
    classes = {name: n for n, name in enumerate(_lines_of(folder / "ClassName.txt"))}
    of_no_class = []

    def part(file: str) -> Iterator[tuple[Path, int]]:
        for line in _lines_of(folder / file):
            name = line.rpartition("/")[0]
            if name not in classes:
                of_no_class.append(f"{file}: {line} is of no class of ClassName.txt")
            yield folder / line.lstrip("/"), classes.get(name, -1)

    train, test = (samples_of(part(f"{name}_01.txt")) for name in ("Training", "Testing"))
    if of_no_class:
        raise ValueError("; ".join(of_no_class[:20]))
    return from_parts(train, test)


def ucf101(root: Path, _seed: int) -> Collection:
    """The middle frame of each video; the mean over the three published splits (appendix A.1)."""
    folder = root / "ucf101"
    numbered = (line.split() for line in _lines_of(folder / "ucfTrainTestlist" / "classInd.txt"))
    classes = {name: int(number) - 1 for number, name in numbered}
    splits = [
        [line.split()[0] for line in _lines_of(folder / "ucfTrainTestlist" / f"{part}list0{n}.txt")]
        for n in (1, 2, 3)
        for part in ("train", "test")
    ]
    videos = sorted({name for split in splits for name in split})
    if unknown := {name.split("/")[0] for name in videos} - set(classes):
        raise ValueError(f"videos of classes that classInd.txt does not have: {sorted(unknown)}")
    place = {name: n for n, name in enumerate(videos)}
    places: list[Places] = [np.array(sorted({place[n] for n in each}), int) for each in splits]
    samples = samples_of(
        (folder / "UCF-101" / name, classes[name.split("/")[0]]) for name in videos
    )
    pairs = zip(places[::2], places[1::2], strict=True)
    return Collection(samples, tuple(Fold(train, None, test) for train, test in pairs))


def fer2013(root: Path, _seed: int) -> Collection:
    """All images of seven classes; CLIP's table 9 has 173 fewer, and an eighth class."""
    folder = root / "fer2013"
    path = next(p for p in (folder / "fer2013.csv", folder / "icml_face_data.csv") if p.is_file())
    images: dict[str, list[np.ndarray]] = defaultdict(list)
    labels: dict[str, list[int]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            levels = np.array(row["pixels"].split(), np.uint8)
            images[row["Usage"]].append(levels.reshape(FER_SIDE, FER_SIDE))
            labels[row["Usage"]].append(int(row["emotion"]))
    if unexpected := set(FER_PARTS) ^ set(images):
        raise ValueError(
            f"{path.name}: Usage is to be one of {FER_PARTS}; see {sorted(unexpected)}"
        )
    return from_parts(
        *(Samples(np.stack(images[part]), np.array(labels[part], int)) for part in FER_PARTS)
    )


def pcam(root: Path, _seed: int) -> Collection:
    try:
        import h5py
    except ImportError as error:
        raise ValueError("PCAM is in HDF5 files: pip install 'flava[suite]'") from error

    def part(name: str) -> Samples:
        stem = root / "pcam" / f"camelyonpatch_level_2_split_{name}_"
        images, labels = (h5py.File(f"{stem}{kind}.h5", "r")[kind] for kind in ("x", "y"))
        return Samples(images, labels[:].reshape(-1).astype(np.int64))  # pyright: ignore

    return from_parts(part("train"), part("test"), part("valid"))


def kitti(root: Path, _seed: int) -> Collection:
    """The distance to the nearest vehicle in four classes, split by drives: see ``_drives``."""
    from torchvision.datasets import Kitti

    raw = root / "Kitti" / "raw"
    reader = Kitti(root)
    pairs = zip(reader.images, reader.targets, strict=True)
    by_name = {Path(image).stem: (image, Path(labels)) for image, labels in pairs}
    parts = _drives(raw / "mapping")
    names = [[f"{number:06d}" for number in part] for part in parts]
    if missing := [name for part in names for name in part if name not in by_name]:
        raise ValueError(f"the mapping names images that are not there: {missing[:20]}")
    return from_parts(
        *(
            samples_of((by_name[name][0], _nearest(by_name[name][1])) for name in part)
            for part in names
        )
    )


def _nearest(labels: Path) -> int:
    """VTAB's class of the nearest vehicle: 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 none at all."""
    rows = (line.split() for line in _lines_of(labels))
    # KITTI's columns: the type, then 10 others, then x, y and z in metres from the camera.
    depths = [float(row[13]) for row in rows if row[0] in VEHICLES]
    return sum(min(depths) > bound for bound in (NEAR, FAR)) if depths else 3


def _drives(mapping: Path) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the images that train, test and validate, as TensorFlow Datasets divides them.

    CLIP's table 9 has its numbers, 6,770 and 711. Whole drives are drawn, since images of one
    drive are much alike.
    """
    order = (mapping / "train_rand.txt").read_text().replace(",", " ").split()
    lines = (mapping / "train_mapping.txt").read_text().splitlines()
    images = defaultdict(list)
    for image, line in enumerate(order):
        images[lines[int(line) - 1].split()[1]].append(image)
    rng = np.random.RandomState(DRIVES_SEED)
    names = sorted(images)
    test = set(rng.choice(names, max(1, TEST_DRIVES * len(names) // 100), replace=False))
    rest = [name for name in names if name not in test]
    validation = set(rng.choice(rest, max(1, VALIDATION_DRIVES * len(names) // 100), replace=False))
    chosen = {"test": test, "validation": validation, "train": set(names) - test - validation}
    parts = {part: sorted(n for name in of for n in images[name]) for part, of in chosen.items()}
    return parts["train"], parts["test"], parts["validation"]


def _lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]

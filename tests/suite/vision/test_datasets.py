"""Every data set in its own format: images, labels and parts stay together; mistakes are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flava.data.stored_images import open_image
from flava.suite.vision.collection import Collection, prepare
from flava.suite.vision.datasets import DATA_SETS, DataSet
from tests.suite.vision.disk import DRIVES, TEST, TRAIN, VALIDATION, WRITERS, colour, grey, write

BY_NAME = {data.name: data for data in DATA_SETS}

SIZES = {
    "imagenet": (2000, None, 1000),
    "food101": (202, None, 101),
    "cifar10": (50, None, 10),
    "cifar100": (100, None, 100),
    "cars": (392, None, 196),
    "aircraft": (100, 100, 100),
    "dtd": (47, 47, 47),
    "pets": (74, None, 37),
    "caltech101": (3060, None, 204),
    "flowers102": (102, 102, 102),
    "mnist": (20, None, 10),
    "stl10": (20, None, 10),
    "eurosat": (100, None, 50),
    "gtsrb": (86, None, 43),
    "kitti": (64, 8, 8),
    "pcam": (2, 2, 2),
    "ucf101": (202, None, 101),
    "clevr": (16, None, 8),
    "fer2013": (7, 7, 7),
    "sun397": (794, None, 397),
    "rendered_sst2": (4, 2, 2),
    "country211": (422, 211, 211),
}
"""Training, validation and test samples of a fold in `disk`; None where they are drawn."""

ONE_COLOUR = ("caltech101", "eurosat", "kitti", "ucf101")
"""Their images do not say of which part they are: parts are drawn, or of lists."""


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[str], DataSet]:
    def make(name: str) -> DataSet:
        WRITERS[name](tmp_path / BY_NAME[name].folder)
        return BY_NAME[name]

    return make


def test_rows_are_those_of_the_table() -> None:
    assert set(BY_NAME) == set(WRITERS) == set(SIZES)
    assert len(DATA_SETS) == 22
    assert {d.name for d in DATA_SETS if d.metric == "mean_per_class"} == {
        "aircraft",
        "pets",
        "caltech101",
        "flowers102",
    }


@pytest.mark.parametrize("name", WRITERS)
def test_images_labels_and_parts_stay_together(
    name: str, on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk(name)
    assert data.missing(tmp_path / data.folder) == []
    collection = data.open(tmp_path, seed=0)
    for fold in collection.folds:
        parts = {TRAIN: fold.train, VALIDATION: fold.validation, TEST: fold.test}
        sizes = tuple(None if places is None else len(places) for places in parts.values())
        assert sizes == SIZES[name]
        for part, places in parts.items():
            if places is not None:
                assert set(collection.samples.labels[places]) == set(range(data.classes))
                check_colours(name, collection, places, part)


def check_colours(name: str, collection: Collection, places: np.ndarray, part: int) -> None:
    rng = np.random.default_rng(0)
    for place in rng.permutation(places)[:40].tolist():
        label = int(collection.samples.labels[place])
        shown = np.asarray(open_image(collection.samples.images[place]))[5, 3].astype(int)
        part = TRAIN if name in ONE_COLOUR else part
        grey_level = grey(label, part)
        truth = (grey_level,) * 3 if name in ("mnist", "fer2013") else colour(label, part)
        # JPEG and MPEG-4 round; the colours of two classes are 8 apart.
        assert np.abs(shown - truth).max() < 4, (name, place, label)


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_missing_is_listed(name: str, tmp_path: Path) -> None:
    data = BY_NAME[name]
    lost = data.missing(tmp_path / data.folder)
    assert len(lost) == len(data.files)
    with pytest.raises(FileNotFoundError) as caught:
        data.open(tmp_path, seed=0)
    assert all(line in str(caught.value) for line in (*lost, data.source))


@pytest.mark.parametrize("name", [data.name for data in DATA_SETS if data.indexed])
def test_lost_images_are_listed(
    name: str, on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk(name)
    images = [path for path in tmp_path.rglob("*.*") if path.suffix in (".jpg", ".ppm", ".avi")]
    gone = images[::40][:3]
    if name == "gtsrb":  # its training images are whatever is there
        gone = [path for path in images if "Final_Test" in path.parts][:3]
    if name == "kitti":
        gone = [tmp_path / "Kitti" / "raw" / "training" / "image_2" / "000003.png"]
    for path in gone:
        path.unlink()
    lost = "\n".join(data.missing(tmp_path / data.folder))
    assert all(path.stem in lost for path in gone)
    with pytest.raises(ValueError, match=data.row) as caught:
        data.open(tmp_path, seed=0)
    assert all(path.stem in str(caught.value) for path in gone)


def test_a_label_out_of_range_and_an_empty_class_come_in_one_error(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk("mnist")
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-2] + bytes([11, 12]))  # in place of 1 and 0
    with pytest.raises(ValueError, match="MNIST does not hold") as caught:
        data.open(tmp_path, seed=0)
    said = str(caught.value)
    assert "sample 28 has the label 11" in said
    assert "sample 29 has the label 12" in said
    assert "the test part has no sample of the classes 0, 1" in said


def test_every_kind_of_mistake_comes_in_one_error(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk("pets")
    path = tmp_path / "oxford-iiit-pet" / "annotations" / "test.txt"
    path.write_text(path.read_text().replace("breed_4_20 5 1 1", "breed_4_20 99 1 1"))
    (tmp_path / "oxford-iiit-pet" / "images" / "breed_7_01.jpg").unlink()
    with pytest.raises(ValueError, match="Pets does not hold") as caught:
        data.open(tmp_path, seed=0)
    said = str(caught.value)
    assert "breed_7_01.jpg is missing" in said
    assert "breed_4_20.jpg has the label 98" in said
    assert "the test part has no sample of the classes 4" in said


def test_images_that_are_listed_twice_are_told(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    """One in training and test, one twice in test."""
    data = on_disk("sun397")
    train, test = (tmp_path / "SUN397" / f"{part}_01.txt" for part in ("Training", "Testing"))
    leaked, doubled = train.read_text().split()[3], test.read_text().split()[5]
    write(test, f"{test.read_text()}\n{leaked}\n{doubled}\n")
    with pytest.raises(ValueError, match="SUN397 does not hold") as caught:
        data.open(tmp_path, seed=0)
    said = str(caught.value).splitlines()[1:]
    assert [line.strip() for line in said] == [
        f"{tmp_path}/SUN397{line} is listed 2 times" for line in (leaked, doubled)
    ]


def test_a_lost_class_is_no_shift_of_the_others(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk("rendered_sst2")
    (tmp_path / "rendered-sst2" / "test" / "negative").rename(
        tmp_path / "rendered-sst2" / "test" / "bad"
    )
    with pytest.raises(ValueError, match="has other classes than"):
        data.open(tmp_path, seed=0)


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("food101", "meta/train.json", "{"),
        ("aircraft", "data/images_variant_val.txt", "0 No such make"),
        ("sun397", "Training_01.txt", "/a/nowhere/sun_0.jpg"),
        ("fer2013", "fer2013.csv", "emotion,pixels,Usage\n0,1 2 3,Training\n"),
        ("fer2013", "fer2013.csv", "emotion,pixels\n0,1 2 3\n"),
        ("kitti", "raw/training/label_2/000004.txt", "Car 0 0"),
        ("kitti", "raw/mapping/train_rand.txt", "1,2,x"),
        ("stl10", "fold_indices.txt", "0 1 5000"),
        ("ucf101", "ucfTrainTestlist/testlist02.txt", "Elsewhere/v_0.avi"),
        ("pcam", "camelyonpatch_level_2_split_test_y.h5", "no HDF5"),
        ("flowers102", "setid.mat", "no mat"),
        ("mnist", "raw/train-images-idx3-ubyte", "no idx"),
        ("cifar10", "data_batch_3", "no pickle"),
    ],
)
def test_damaged_files_name_the_data_set_and_where_it_is_to_be_had(
    name: str, path: str, content: str, on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk(name)
    write(tmp_path / data.folder / path, content)
    with pytest.raises((ValueError, OSError)) as caught:
        data.open(tmp_path, seed=0)
    assert data.row in str(caught.value)
    assert data.source in str(caught.value)


def test_kitti_is_divided_as_tensorflow_datasets_divides_it(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    """TFDS' kitti.py: np.random.seed(123), then 10 % of the sorted drives test, 10 % validate."""
    collection = on_disk("kitti").open(tmp_path, seed=5)
    state = np.random.get_state()
    try:
        np.random.seed(123)
        test = set(np.random.choice(DRIVES, 2, replace=False))
        rest = sorted(set(DRIVES) - test)
        held = set(np.random.choice(rest, 2, replace=False))
    finally:
        np.random.set_state(state)

    def drives(places: np.ndarray | None) -> set[str]:
        assert places is not None
        return {DRIVES[int(collection.samples.images[p].stem) % 20] for p in places.tolist()}

    (fold,) = collection.folds
    assert drives(fold.test) == test
    assert drives(fold.validation) == held
    assert drives(fold.train) == set(DRIVES) - test - held


def test_averaged_folds(on_disk: Callable[[str], DataSet], tmp_path: Path) -> None:
    """STL-10 has ten, UCF101 three: each trains on its own samples."""
    stl = on_disk("stl10").open(tmp_path, seed=0)
    assert [fold.train.tolist() for fold in stl.folds[:2]] == [
        list(range(20)),
        list(range(20, 40)),
    ]
    assert len(stl.folds) == 10
    ucf = on_disk("ucf101").open(tmp_path, seed=0)
    assert len(ucf.folds) == 3
    for number, fold in enumerate(ucf.folds):
        assert not set(fold.train) & set(fold.test)
        assert {ucf.samples.images[p].stem[-6:-4] for p in fold.test.tolist()} == {f"0{number}"}


def test_validation_is_drawn_of_each_class_by_the_seed(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    collection = on_disk("eurosat").open(tmp_path, seed=0)
    (fold,) = prepare(collection, "eurosat", seed=0, few=None)
    whole = collection.folds[0]
    labels = collection.samples.labels
    assert np.bincount(labels[fold.validation]).tolist() == [2] * 10  # a fifth of ten each
    assert sorted([*fold.train, *fold.validation]) == whole.train.tolist()
    (again,) = prepare(collection, "eurosat", seed=0, few=None)
    (other,) = prepare(collection, "eurosat", seed=1, few=None)
    assert again.validation.tolist() == fold.validation.tolist() != other.validation.tolist()


def test_few_limits_every_part(on_disk: Callable[[str], DataSet], tmp_path: Path) -> None:
    collection = on_disk("dtd").open(tmp_path, seed=0)
    (fold,) = prepare(collection, "dtd", seed=0, few=5)
    (whole,) = collection.folds
    assert whole.validation is not None
    for part, of in (
        (fold.train, whole.train),
        (fold.validation, whole.validation),
        (fold.test, whole.test),
    ):
        assert len(part) == 5
        assert set(part) <= set(of)
    (other,) = prepare(collection, "dtd", seed=1, few=5)
    assert other.test.tolist() != fold.test.tolist()


def test_a_reading_changes_nothing_on_disk(
    on_disk: Callable[[str], DataSet], tmp_path: Path
) -> None:
    data = on_disk("caltech101")
    before = sorted(tmp_path.rglob("*"))
    data.open(tmp_path, seed=0)
    assert sorted(tmp_path.rglob("*")) == before

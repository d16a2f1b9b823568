"""The 22 data sets of the vision tasks: where each is, what it holds, and who may use it.

``Settings.data_root`` is what torchvision's readers call ``root``, for all of them. Sizes and
metrics are those of CLIP's table 9 (Radford et al. 2021, appendix A), which the paper follows. A
part that validates belongs to the training samples of the final probe.
"""

from dataclasses import dataclass
from pathlib import Path

from flava.suite.data_mistakes import shortened
from flava.suite.vision import protocols, torchvision_readers
from flava.suite.vision.collection import Collection, missing_images, mistakes
from flava.suite.vision.torchvision_readers import ReadCollection

RESEARCH = "for research that is not commercial"
OWNERS = "not stated; the images belong to their owners"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set."""

    name: str
    """As on the command line."""
    row: str
    """As in Table C.1."""
    folder: str
    """Below ``Settings.data_root``, as torchvision names it."""
    files: tuple[str, ...]
    """What is below it; "a|b" is either."""
    classes: int
    read: ReadCollection
    indexed: bool = False
    """Whether its lists name its images, so that one can be missing."""
    mean_per_class: bool = False
    """Whether the figure is the mean of the classes' accuracies (CLIP, table 9)."""
    source: str
    licence: str

    @property
    def metric(self) -> str:
        return "mean_per_class" if self.mean_per_class else "accuracy"

    def missing(self, folder: Path) -> list[str]:
        """A line for each file and image that is not there."""
        missing = self.missing_files(folder)
        if missing or not self.indexed:
            return missing
        try:
            return shortened(missing_images(self.read_all(folder.parent, seed=0).samples))
        except ValueError as error:
            return [str(error)]

    def missing_files(self, folder: Path) -> list[str]:
        """The same for the files that ``files`` names, without the images of its lists."""
        return [
            f"{folder / files.replace('|', ' or ')} is missing"
            for files in self.files
            if not any((folder / file).exists() for file in files.split("|"))
        ]

    def read_all(self, root: Path, seed: int) -> Collection:
        """All its samples.

        Raises:
            ValueError: its files cannot be read as what they should be.
        """
        try:
            return self.read(root, seed)
        except Exception as error:  # of any type: the readers are others', and trust the files
            raise ValueError(
                f"{root / self.folder} cannot be read as {self.row} ({type(error).__name__}: "
                f"{error}). Get it again: {self.source}"
            ) from error

    def open(self, root: Path, seed: int) -> Collection:
        """All its samples, of which nothing is missing.

        Raises:
            FileNotFoundError: files are missing; all are listed.
            ValueError: it does not hold; images that are missing or listed twice, labels out of
                range and empty classes are all listed.
        """
        if missing := self.missing_files(root / self.folder):
            raise FileNotFoundError(
                f"{self.row} is not whole:\n  "
                + "\n  ".join(missing)
                + f"\nTo be had: {self.source}"
            )
        collection = self.read_all(root, seed)
        if lines := mistakes(collection, self.classes):
            raise ValueError(f"{self.row} does not hold:\n  " + "\n  ".join(lines))
        return collection


DATA_SETS = (
    DataSet(
        name="imagenet",
        row="ImageNet",
        folder="imagenet",
        files=("train", "val"),
        classes=1000,
        read=torchvision_readers.imagenet,
        source="image-net.org, ILSVRC 2012, unpacked to train/n01440764/*.JPEG, val/n01440764/*",
        licence=RESEARCH,
    ),
    DataSet(
        name="food101",
        row="Food101",
        folder="food-101",
        files=("images", "meta/train.json", "meta/test.json"),
        classes=101,
        read=torchvision_readers.food101,
        indexed=True,
        source="torchvision.datasets.Food101(root, download=True)",
        licence=OWNERS,
    ),
    DataSet(
        name="cifar10",
        row="CIFAR10",
        folder="cifar-10-batches-py",
        files=(*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"),
        classes=10,
        read=torchvision_readers.cifar10,
        source="torchvision.datasets.CIFAR10(root, download=True)",
        licence="not stated",
    ),
    DataSet(
        name="cifar100",
        row="CIFAR100",
        folder="cifar-100-python",
        files=("train", "test", "meta"),
        classes=100,
        read=torchvision_readers.cifar100,
        source="torchvision.datasets.CIFAR100(root, download=True)",
        licence="not stated",
    ),
    DataSet(
        name="cars",
        row="Cars",
        folder="stanford_cars",
        files=(
            "devkit/cars_meta.mat",
            "devkit/cars_train_annos.mat",
            "cars_train",
            "cars_test_annos_withlabels.mat",
            "cars_test",
        ),
        classes=196,
        read=torchvision_readers.cars,
        indexed=True,
        source="Stanford Cars (Krause et al. 2013); its own site is gone, and mirrors remain",
        licence=RESEARCH,
    ),
    DataSet(
        name="aircraft",
        row="Aircraft",
        folder="fgvc-aircraft-2013b",
        files=(
            "data/images",
            "data/variants.txt",
            *(f"data/images_variant_{part}.txt" for part in ("train", "val", "test")),
        ),
        classes=100,
        read=torchvision_readers.aircraft,
        indexed=True,
        mean_per_class=True,
        source="torchvision.datasets.FGVCAircraft(root, download=True)",
        licence=RESEARCH,
    ),
    DataSet(
        name="dtd",
        row="DTD",
        folder="dtd",
        files=("dtd/images", *(f"dtd/labels/{part}1.txt" for part in ("train", "val", "test"))),
        classes=47,
        read=torchvision_readers.dtd,
        indexed=True,
        source="torchvision.datasets.DTD(root, download=True)",
        licence="for research",
    ),
    DataSet(
        name="pets",
        row="Pets",
        folder="oxford-iiit-pet",
        files=("images", "annotations/trainval.txt", "annotations/test.txt"),
        classes=37,
        read=torchvision_readers.pets,
        indexed=True,
        mean_per_class=True,
        source="torchvision.datasets.OxfordIIITPet(root, download=True)",
        licence="CC BY-SA 4.0",
    ),
    DataSet(
        name="caltech101",
        row="Caltech101",
        folder="caltech101",
        files=("101_ObjectCategories",),
        classes=102,
        read=protocols.caltech101,
        mean_per_class=True,
        source="torchvision.datasets.Caltech101(root, download=True)",
        licence="CC BY 4.0",
    ),
    DataSet(
        name="flowers102",
        row="Flowers",
        folder="flowers-102",
        files=("jpg", "imagelabels.mat", "setid.mat"),
        classes=102,
        read=torchvision_readers.flowers102,
        indexed=True,
        mean_per_class=True,
        source="torchvision.datasets.Flowers102(root, download=True)",
        licence="not stated",
    ),
    DataSet(
        name="mnist",
        row="MNIST",
        folder="MNIST",
        files=tuple(
            f"raw/{part}-{kind}-ubyte"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ),
        classes=10,
        read=torchvision_readers.mnist,
        source="torchvision.datasets.MNIST(root, download=True)",
        licence="CC BY-SA 3.0",
    ),
    DataSet(
        name="stl10",
        row="STL10",
        folder="stl10_binary",
        files=(
            *(f"{part}_{kind}.bin" for part in ("train", "test") for kind in "Xy"),
            "unlabeled_X.bin",
            "fold_indices.txt",
        ),
        classes=10,
        read=torchvision_readers.stl10,
        source="torchvision.datasets.STL10(root, download=True)",
        licence="that of ImageNet, " + RESEARCH,
    ),
    DataSet(
        name="eurosat",
        row="EuroSAT",
        folder="eurosat",
        files=("2750",),
        classes=10,
        read=protocols.eurosat,
        source="torchvision.datasets.EuroSAT(root, download=True)",
        licence="MIT",
    ),
    DataSet(
        name="gtsrb",
        row="GTSRB",
        folder="gtsrb",
        files=("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"),
        classes=43,
        read=torchvision_readers.gtsrb,
        indexed=True,
        source="torchvision.datasets.GTSRB(root, part, download=True) for both parts",
        licence="not stated",
    ),
    DataSet(
        name="kitti",
        row="KITTI",
        folder="Kitti",
        files=(
            "raw/training/image_2",
            "raw/training/label_2",
            "raw/mapping/train_mapping.txt",
            "raw/mapping/train_rand.txt",
        ),
        classes=4,
        read=protocols.kitti,
        indexed=True,
        source="torchvision.datasets.Kitti(root, download=True); the folder mapping is that of the "
        "object development kit, devkit_object.zip, of cvlibs.net",
        licence="CC BY-NC-SA 3.0",
    ),
    DataSet(
        name="pcam",
        row="PCAM",
        folder="pcam",
        files=tuple(
            f"camelyonpatch_level_2_split_{part}_{kind}.h5"
            for part in ("train", "valid", "test")
            for kind in "xy"
        ),
        classes=2,
        read=protocols.pcam,
        source="torchvision.datasets.PCAM(root, part, download=True) for train, val and test",
        licence="CC0",
    ),
    DataSet(
        name="ucf101",
        row="UCF101",
        folder="ucf101",
        files=(
            "UCF-101",
            "ucfTrainTestlist/classInd.txt",
            *(f"ucfTrainTestlist/{p}list0{n}.txt" for p in ("train", "test") for n in (1, 2, 3)),
        ),
        classes=101,
        read=protocols.ucf101,
        indexed=True,
        source="crcv.ucf.edu, UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip",
        licence="not stated",
    ),
    DataSet(
        name="clevr",
        row="CLEVR",
        folder="clevr",
        files=tuple(
            f"CLEVR_v1.0/{path}"
            for part in ("train", "val")
            for path in (f"images/{part}", f"scenes/CLEVR_{part}_scenes.json")
        ),
        classes=8,
        read=torchvision_readers.clevr,
        source="torchvision.datasets.CLEVRClassification(root, download=True)",
        licence="CC BY 4.0",
    ),
    DataSet(
        name="fer2013",
        row="FER 2013",
        folder="fer2013",
        files=("fer2013.csv|icml_face_data.csv",),
        classes=7,
        read=protocols.fer2013,
        source="kaggle.com, Challenges in Representation Learning: Facial Expression Recognition; "
        "train.csv and test.csv alone do not do, for the latter has no labels",
        licence="not stated; the rules of that competition",
    ),
    DataSet(
        name="sun397",
        row="SUN397",
        folder="SUN397",
        files=("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
        classes=397,
        read=protocols.sun397,
        indexed=True,
        source="torchvision.datasets.SUN397(root, download=True), and the files of Partitions.zip, "
        "from vision.princeton.edu/projects/2010/SUN, in the same folder",
        licence=OWNERS,
    ),
    DataSet(
        name="rendered_sst2",
        row="SST",
        folder="rendered-sst2",
        files=("train", "valid", "test"),
        classes=2,
        read=torchvision_readers.rendered_sst2,
        source="torchvision.datasets.RenderedSST2(root, download=True)",
        licence="not stated",
    ),
    DataSet(
        name="country211",
        row="Country211",
        folder="country211",
        files=("train", "valid", "test"),
        classes=211,
        read=torchvision_readers.country211,
        source="torchvision.datasets.Country211(root, download=True)",
        licence="Creative Commons, each image its own",
    ),
)

"""The 22 data sets, small, in their own files and folders: see ``WRITERS``.

Every class is there, with one or two images a part. An image's colour tells its class and its
part, so that a reader that mixes up either is found out.
"""

import csv
import json
import pickle
import struct
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

TRAIN, VALIDATION, TEST = range(3)
PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}


def colour(label: int, part: int) -> tuple[int, int, int]:
    return label % 32 * 8, label // 32 * 8, part * 100


def grey(label: int, part: int) -> int:
    return label * 20 + part * 5


def levels(label: int, part: int, side: int) -> np.ndarray:
    return np.full((side, side, 3), colour(label, part), np.uint8)


@cache
def file(label: int, part: int, kind: str = "JPEG") -> bytes:
    target = BytesIO()
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(levels(label, part, 8)).save(target, kind, **options)
    return target.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def folders(names: dict[str, int], classes: list[str], kind: str = "JPEG") -> Callable:
    """Writes NAME/CLASS/N.jpg, two images a class in the training part."""

    def writer(folder: Path) -> None:
        for name, part in names.items():
            for label, title in enumerate(classes):
                for n in range(2 if part == TRAIN else 1):
                    end = "jpg" if kind == "JPEG" else "png"
                    write(folder / name / title / f"{n}.{end}", file(label, part, kind))

    return writer


def food101(folder: Path) -> None:
    titles = [f"dish_{n:03d}" for n in range(101)]
    for name, part in {"train": TRAIN, "test": TEST}.items():
        index: dict[str, list[str]] = {}
        for label in reversed(range(101)):  # labels are by name, not by place
            index[titles[label]] = [f"{titles[label]}/{part}{n}" for n in range(2 - part // 2)]
            for each in index[titles[label]]:
                write(folder / "images" / f"{each}.jpg", file(label, part))
        write(folder / "meta" / f"{name}.json", json.dumps(index))


def cifar(classes: int, names: dict[str, int], key: str, meta: tuple[str, str]) -> Callable:
    def writer(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, part in names.items():
            labels = list(range(classes))[:: 1 - 2 * (part == TEST)]
            images = [levels(label, part, 32).transpose(2, 0, 1).ravel() for label in labels]
            write(folder / name, pickle.dumps({"data": np.stack(images), key: labels}))
        write(folder / meta[0], pickle.dumps({meta[1]: [str(n) for n in range(classes)]}))

    return writer


CIFAR10 = cifar(
    10,
    {**{f"data_batch_{n}": TRAIN for n in range(1, 6)}, "test_batch": TEST},
    "labels",
    ("batches.meta", "label_names"),
)
CIFAR100 = cifar(100, {"train": TRAIN, "test": TEST}, "fine_labels", ("meta", "fine_label_names"))


def cars(folder: Path) -> None:
    fields = [("bbox_x1", "u2"), ("class", "u1"), ("fname", "O")]
    for name, part in {"train": TRAIN, "test": TEST}.items():
        rows = []
        for label in range(196):
            for n in range(2 - part // 2):
                rows.append((1, label + 1, f"{label:05d}_{n}.jpg"))
                write(folder / f"cars_{name}" / rows[-1][2], file(label, part))
        path = "devkit/cars_train_annos" if part == TRAIN else "cars_test_annos_withlabels"
        (folder / "devkit").mkdir(exist_ok=True)
        savemat(folder / f"{path}.mat", {"annotations": np.array([rows], fields)})
    titles = np.array([[f"car {n}" for n in range(196)]], object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": titles})


def aircraft(folder: Path) -> None:
    titles = [f"Make {n:03d}" for n in range(100)]
    write(folder / "data" / "variants.txt", "\n".join(titles))
    for name, part in PARTS.items():
        lines = []
        for label, title in enumerate(titles):
            lines.append(f"{part}{label:06d} {title}")
            write(folder / "data" / "images" / f"{part}{label:06d}.jpg", file(label, part))
        write(folder / "data" / f"images_variant_{name}.txt", "\n".join(lines))


def dtd(folder: Path) -> None:
    for name, part in PARTS.items():
        paths = [f"texture{label:02d}/{part}.jpg" for label in range(47)]
        for label, path in enumerate(paths):
            write(folder / "dtd" / "images" / path, file(label, part))
        write(folder / "dtd" / "labels" / f"{name}1.txt", "\n".join(paths[::-1]))


def pets(folder: Path) -> None:
    for name, part in {"trainval": TRAIN, "test": TEST}.items():
        lines = []
        for label in range(37):
            for n in range(2 - part // 2):
                lines.append(f"breed_{label}_{part}{n} {label + 1} 1 1")
                write(folder / "images" / f"breed_{label}_{part}{n}.jpg", file(label, part))
        write(folder / "annotations" / f"{name}.txt", "\n".join(lines))


def caltech101(folder: Path) -> None:
    titles = ["BACKGROUND_Google", *(f"thing_{n:03d}" for n in range(101))]
    for label, title in enumerate(titles):
        for n in range(32):
            path = folder / "101_ObjectCategories" / title / f"image_{n + 1:04d}.jpg"
            write(path, file(label, TRAIN))
    write(folder / "101_ObjectCategories" / "BACKGROUND_Google" / "tmp", "no image")


def flowers102(folder: Path) -> None:
    every = np.arange(1, 102 * 3 + 1)
    labels = (every - 1) % 102 + 1
    parts = (every - 1) // 102
    for number, label, part in zip(every, labels, parts, strict=True):
        write(folder / "jpg" / f"image_{number:05d}.jpg", file(int(label) - 1, int(part)))
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    names = ("trnid", "valid", "tstid")
    savemat(folder / "setid.mat", {name: every[None, parts == n] for n, name in enumerate(names)})


def mnist(folder: Path) -> None:
    for name, part in {"train": TRAIN, "t10k": TEST}.items():
        labels = [9 - n for n in range(10)] * (2 - part // 2)
        images = np.stack([np.full((28, 28), grey(label, part), np.uint8) for label in labels])
        head = struct.pack(">IIII", 2051, len(labels), 28, 28)
        write(folder / "raw" / f"{name}-images-idx3-ubyte", head + images.tobytes())
        head = struct.pack(">II", 2049, len(labels))
        write(folder / "raw" / f"{name}-labels-idx1-ubyte", head + bytes(labels))


def stl10(folder: Path) -> None:
    for name, part in {"train": TRAIN, "test": TEST}.items():
        labels = list(range(10)) * (4 if part == TRAIN else 1)
        # Columns first, as the file has it.
        images = [levels(label, part, 96).transpose(2, 1, 0) for label in labels]
        write(folder / f"{name}_X.bin", np.stack(images).tobytes())
        write(folder / f"{name}_y.bin", bytes(label + 1 for label in labels))
    write(folder / "unlabeled_X.bin", b"")
    halves = [" ".join(map(str, range(first, first + 20))) + " " for first in (0, 20)]
    write(folder / "fold_indices.txt", "\n".join(halves * 5) + "\n")


def eurosat(folder: Path) -> None:
    for label in range(10):
        for n in range(27):
            write(folder / "2750" / f"Land{label}" / f"Land{label}_{n}.jpg", file(label, TRAIN))


def gtsrb(folder: Path) -> None:
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(43):
        for n in range(2):
            path = folder / "GTSRB" / "Training" / f"{label:05d}" / f"00000_{n:05d}.ppm"
            write(path, file(label, TRAIN, "PPM"))
        name = f"{42 - label:05d}.ppm"
        write(folder / "GTSRB" / "Final_Test" / "Images" / name, file(label, TEST, "PPM"))
        lines.append(f"{name};8;8;0;0;8;8;{label}")
    write(folder / "GT-final_test.csv", "\n".join(lines))


DRIVES = [f"2011_09_26_drive_{n:04d}_sync" for n in range(20)]
DEPTHS = {0: ("Van", 7.5), 1: ("Car", 8.5), 2: ("Truck", 20.5), 3: ("Cyclist", 3.0)}


def kitti(folder: Path) -> None:
    """Image n is of drive n % 20 and of class n // 20; lines and images are in another order."""
    order = np.random.default_rng(0).permutation(80)  # image -> line of the mapping, from 0
    lines = [""] * 80
    for image in range(80):
        lines[order[image]] = f"2011_09_26 {DRIVES[image % 20]} {image:010d}"
        kind, depth = DEPTHS[image // 20]
        boxes = [(kind, depth), ("Tram", 1.0), ("DontCare", -1000.0)]
        if image // 20 < 3:
            boxes.append(("Car", depth + 30))
        text = "\n".join(f"{k} 0 0 0 0 0 9 9 1 1 1 0.5 1.5 {z} 0" for k, z in boxes)
        write(folder / "raw" / "training" / "label_2" / f"{image:06d}.txt", text)
        path = folder / "raw" / "training" / "image_2" / f"{image:06d}.png"
        write(path, file(image // 20, TRAIN, "PNG"))
    write(folder / "raw" / "mapping" / "train_mapping.txt", "\n".join(lines))
    write(folder / "raw" / "mapping" / "train_rand.txt", ",".join(str(n + 1) for n in order))


def pcam(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, part in {"train": TRAIN, "valid": VALIDATION, "test": TEST}.items():
        labels = [1, 0]
        images = np.stack([levels(label, part, 96) for label in labels])
        stem = f"camelyonpatch_level_2_split_{name}_"
        with h5py.File(folder / f"{stem}x.h5", "w") as target:
            target["x"] = images
        with h5py.File(folder / f"{stem}y.h5", "w") as target:
            target["y"] = np.array(labels, np.uint8).reshape(-1, 1, 1, 1)


@cache
def video(label: int) -> bytes:
    """Five frames, of which the middle one alone has the class's colour."""
    target = BytesIO()
    with av.open(target, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for n in range(5):
            shown = levels(label, TRAIN, 32) if n == 2 else np.full((32, 32, 3), 250, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def ucf101(folder: Path) -> None:
    """Three videos a class; in split n the n-th of them tests."""
    titles = [f"Action{n:03d}" for n in range(101)]
    lists = folder / "ucfTrainTestlist"
    write(lists / "classInd.txt", "\r\n".join(f"{n + 1} {t}" for n, t in enumerate(titles)))
    paths = [[f"{title}/v_{title}_g0{n}_c01.avi" for n in range(3)] for title in titles]
    for label, videos in enumerate(paths):
        for path in videos:
            write(folder / "UCF-101" / path, video(label))
    for n in range(3):
        train = [f"{v} {i + 1}" for i, vs in enumerate(paths) for v in vs if v != vs[n]]
        write(lists / f"trainlist0{n + 1}.txt", "\r\n".join(train))
        write(lists / f"testlist0{n + 1}.txt", "\r\n".join(videos[n] for videos in paths))


def clevr(folder: Path) -> None:
    for name, part in {"train": TRAIN, "val": TEST}.items():
        scenes = []
        for label in range(8):
            for n in range(2 - part // 2):
                image = f"CLEVR_{name}_{label * 2 + n:06d}.png"
                path = folder / "CLEVR_v1.0" / "images" / name / image
                write(path, file(label, part, "PNG"))
                scenes.append({"image_filename": image, "objects": [{}] * (label + 3)})
        path = folder / "CLEVR_v1.0" / "scenes" / f"CLEVR_{name}_scenes.json"
        write(path, json.dumps({"scenes": scenes[::-1]}))


def fer2013(folder: Path) -> None:
    folder.mkdir(parents=True)
    with (folder / "fer2013.csv").open("w", newline="") as target:
        rows = csv.writer(target)
        rows.writerow(["emotion", "pixels", "Usage"])
        for label in range(7):
            for usage, part in {"PrivateTest": TEST, "Training": TRAIN, "PublicTest": 1}.items():
                rows.writerow([label, " ".join([str(grey(label, part))] * 48**2), usage])


def sun397(folder: Path) -> None:
    titles = [f"/{chr(97 + n // 16)}/place{n:03d}{'/indoor' * (n % 5 == 0)}" for n in range(397)]
    write(folder / "ClassName.txt", "\n".join(titles))
    for name, part in {"Training": TRAIN, "Testing": TEST}.items():
        lines = []
        for label, title in enumerate(titles):
            for n in range(2 - part // 2):
                lines.append(f"{title}/sun_{part}{n}.jpg")
                write(folder / lines[-1][1:], file(label, part))
        write(folder / f"{name}_01.txt", "\r\n".join(lines))


WRITERS: dict[str, Callable[[Path], None]] = {
    "imagenet": folders({"train": TRAIN, "val": TEST}, [f"n{n:08d}" for n in range(1000)]),
    "food101": food101,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "cars": cars,
    "aircraft": aircraft,
    "dtd": dtd,
    "pets": pets,
    "caltech101": caltech101,
    "flowers102": flowers102,
    "mnist": mnist,
    "stl10": stl10,
    "eurosat": eurosat,
    "gtsrb": gtsrb,
    "kitti": kitti,
    "pcam": pcam,
    "ucf101": ucf101,
    "clevr": clevr,
    "fer2013": fer2013,
    "sun397": sun397,
    "rendered_sst2": folders(
        {"train": TRAIN, "valid": VALIDATION, "test": TEST}, ["negative", "positive"], "PNG"
    ),
    "country211": folders(
        {"train": TRAIN, "valid": VALIDATION, "test": TEST}, [f"C{n:03d}" for n in range(211)]
    ),
}
"""Name -> what writes it into its folder."""

"""Lays out real data from package registries on disk, in the formats that the suite reads.

Splits follow from hashes of the samples, so that they are always the same.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from corpus.packages import MNIST, Package, Packages
from flava.data.samples import read_samples

VADER = Package(
    name="vaderSentiment",
    version="3.3.2",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    client="pip",
    file="vaderSentiment-3.3.2.tar.gz",
)
"""MIT; sentences with the mean of people's ratings from -4 to 4 (Hutto and Gilbert 2014)."""
RATINGS = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

EASY_VQA = Package(
    name="easy-vqa",
    version="1.0",
    sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
    client="pip",
    file="easy_vqa-1.0-py3-none-any.whl",
)
"""MIT; drawn shapes of 64 pixels, and questions that have one of 13 answers."""

SNIPPETS = {"movie": "movieReviewSnippets", "amazon": "amazonReviewSnippets", "tweet": "tweets"}

QUESTIONS = {"train2014": ("train", 8000, 0), "val2014": ("test", 2000, 100_000)}
"""Split of VQA -> (split of easy-VQA, number of questions, id of the first image)."""

EMOJI = {"train": "embedded:pairs/noto-train.tar", "test": "embedded:pairs/twemoji-train.tar"}
"""The same concepts, in a style that is trained on and in one that is not."""

Picture = tuple[str, int | str, Image.Image]
"""(name, class, image)"""


def lay_out(folder: Path, packages: Path) -> None:
    """Write each data set that is not yet in the folder."""
    source = Packages(packages)
    written: dict[str, Callable[[Path], None]] = {
        "digits": lambda place: write_classes(place, split(scans())),
        "mnist_10000": lambda place: write_classes(place, split(mnist(source))),
        "emoji_groups": lambda place: write_classes(place, emoji()),
        **{f"{name}_snippets": partial(snippets, source, name) for name in SNIPPETS},
        "easy_vqa": partial(easy_vqa, source),
    }
    for name, write in written.items():
        if not (folder / name).exists():
            aside = folder / f"{name}.part"
            write(aside)
            aside.rename(folder / name)


def share(key: str) -> float:
    """A number in [0, 1) from the hash of a key."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8


def split(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Put a fifth of the images into the test split."""
    for each in pictures:
        yield "test" if share(each[0]) < 1 / 5 else "train", each


def scans() -> Iterator[Picture]:
    """The digits of 8 x 8 pixels in scikit-learn."""
    found, labels = load_digits(return_X_y=True)
    images = (np.array(found) * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        yield f"{number:04d}", label, Image.fromarray(pixels)


def mnist(packages: Packages) -> Iterator[Picture]:
    """The 10,000 digits of MNIST in the npm package."""
    for label in range(10):
        values = np.array(packages.json(MNIST, f"src/digits/{label}.json")["data"])
        for number, pixels in enumerate(np.rint(values * 255).astype(np.uint8).reshape(-1, 28, 28)):
            yield f"{label}-{number:04d}", label, Image.fromarray(pixels)


def emoji() -> Iterator[tuple[str, Picture]]:
    """Emoji, classified by the groups of Unicode."""
    for part, shard in EMOJI.items():
        for sample in read_samples([shard]):
            assert sample.image is not None
            yield part, (sample.key.replace("/", "-"), sample.meta["group"], sample.image)


def write_classes(folder: Path, pictures: Iterable[tuple[str, Picture]]) -> None:
    """Write the images as PART/CLASS/NAME.png."""
    for part, (name, label, picture) in pictures:
        place = folder / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{name}.png")


def snippets(packages: Packages, name: str, folder: Path) -> None:
    """Write train.tsv and dev.tsv (a tenth) as for SST-2; the sign of the rating is the label."""
    with tarfile.open(fileobj=io.BytesIO(packages.read(VADER, RATINGS))) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{SNIPPETS[name]}_GroundTruth.txt")
        assert file is not None
        content = file.read().decode(errors="replace")
    parts: dict[str, list[str]] = {"train": [], "dev": []}
    for line in content.split("\n"):
        cells = line.rstrip("\r").split("\t")
        if len(cells) == 3:
            _, rating, text = cells
            label = int(float(rating) > 0)
            parts["dev" if share(text) < 1 / 10 else "train"].append(f"{text}\t{label}")
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        lines = ["sentence\tlabel", *rows]
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n", newline="")


def easy_vqa(packages: Packages, folder: Path) -> None:
    """Write a folder as of VQAv2, in which all ten answers to a question are equal."""
    for subset, (part, count, base) in QUESTIONS.items():
        asked = packages.json(EASY_VQA, f"easy_vqa/data/{part}/questions.json")
        asked = sorted(enumerate(asked), key=lambda each: share(f"{part} {each[0]}"))[:count]
        questions, annotations = [], []
        (folder / "vqav2" / subset).mkdir(parents=True, exist_ok=True)
        for number, (text, answer, image) in asked:
            ids = {"question_id": (base + image) * 10_000 + number, "image_id": base + image}
            questions.append({**ids, "question": text})
            annotations.append({**ids, **answered(answer)})
            path = folder / "vqav2" / subset / f"COCO_{subset}_{base + image:012d}.jpg"
            if not path.exists():
                content = packages.read(EASY_VQA, f"easy_vqa/data/{part}/images/{image}.png")
                Image.open(io.BytesIO(content)).convert("RGB").save(path, quality=95)
        for stem, key, entries in (
            (f"v2_OpenEnded_mscoco_{subset}_questions", "questions", questions),
            (f"v2_mscoco_{subset}_annotations", "annotations", annotations),
        ):
            (folder / "vqav2" / f"{stem}.json").write_text(json.dumps({key: entries}))


def answered(answer: str) -> dict[str, Any]:
    """The annotation of a question to which ten people gave this answer."""
    return {"multiple_choice_answer": answer, "answers": [{"answer": answer}] * 10}

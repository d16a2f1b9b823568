"""The package's MNIST digits, 4,000 and 1,000, in the files that torchvision reads."""

import struct
from pathlib import Path

import numpy as np

from flava.data.samples import read_samples

PARTS = {"train": "train", "t10k": "test"}


def write_digits(root: Path, limit: int | None = None) -> None:
    """Into root/MNIST; ``limit`` takes that many of each part."""
    for name, part in PARTS.items():
        samples = read_samples((f"embedded:images/mnist-{part}.tar",))[:limit]
        labels = [sample.meta["digit"] for sample in samples]
        levels = [np.asarray(sample.image.convert("L")) for sample in samples if sample.image]
        folder = root / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        head = struct.pack(">IIII", 2051, len(levels), *levels[0].shape)
        images = head + np.stack(levels).tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        head = struct.pack(">II", 2049, len(labels))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + bytes(labels))

"""Small files for the tests of the data path."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    """An RGB image of smooth noise that differs with ``seed``."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    """The image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, file_format)
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A tar, compressed if it ends in gz, of files in the given order."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair_files(keys: range, prefix: str = "") -> dict[str, bytes]:
    """Pairs with the captions "picture number K", "the K th one"."""
    files = {}
    for key in keys:
        captions = {"captions": [f"picture number {key}", f"the {key} th one"]}
        files[f"{prefix}{key:05d}.png"] = encoded(picture(key))
        files[f"{prefix}{key:05d}.json"] = json.dumps(captions).encode()
    return files


def write_lines(path: Path, texts: list[str]) -> Path:
    """JSON lines with a "text" field each."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path

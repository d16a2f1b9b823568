"""A small source of pairs with images, good and bad, for whole builds."""

import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flava.prepare.build import build
from flava.prepare.build_config import BuildConfig, CleaningConfig
from flava.prepare.shard_files import read_back
from tests.data.shard_files import encoded, picture, write_tar

ROOT = "http://images.example"


def write_pairs(folder: Path, count: int) -> BuildConfig:
    """Conceptual Captions 12M with images fetched by img2dataset, in two of its shards."""
    captions = [f"picture number {number}" for number in range(count)]
    tsv = folder / "cc12m.tsv"
    tsv.write_text("".join(f"{url(n)}\t{caption}\n" for n, caption in enumerate(captions)))
    half = count // 2
    fetched = folder / "fetched"
    fetched.mkdir()
    for shard, numbers in enumerate((range(half), range(half, count))):
        good = {n: encoded(picture(n, 40 + n % 50, 32), "JPEG") for n in numbers}
        write_fetched(fetched / f"{shard:05d}", good, {})
    return BuildConfig(
        source="cc12m",
        annotations=(tsv,),
        images=fetched,
        output=folder / "shards",
        cleaning=CleaningConfig(short_side=24),
        rows_per_shard=7,
    )


def url(number: int) -> str:
    return f"{ROOT}/{number}.jpg"


def write_fetched(stem: Path, good: dict[int, bytes], failed: dict[int, str]) -> None:
    """A shard as img2dataset writes it: images by key, and the status of every URL."""
    files, rows = {}, []
    for place, (number, data) in enumerate(good.items()):
        key = f"{stem.name}{place:04d}"
        files |= {f"{key}.jpg": data, f"{key}.txt": b"its caption", f"{key}.json": b"{}"}
        rows.append((url(number), key, "success", None))
    for place, (number, status) in enumerate(failed.items()):
        rows.append((url(number), f"{stem.name}9{place:03d}", status, "HTTP Error 404: Not Found"))
    write_tar(stem.with_suffix(".tar"), files)
    names = ("url", "key", "status", "error_message")
    columns = [list(column) for column in zip(*rows, strict=True)]
    types = [pa.string()] * len(names)
    arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
    pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), stem.with_suffix(".parquet"))


def write_coco(
    folder: Path, images: dict[str, bytes], captions: list[tuple[str, Any]]
) -> BuildConfig:
    """COCO with these image files, and (file name, caption) in this order."""
    root = folder / "images"
    root.mkdir()
    for name, data in images.items():
        (root / name).write_bytes(data)
    names = list(dict.fromkeys(name for name, _ in captions))
    content = {
        "licenses": [{"id": 1, "url": "http://licence.example/by"}],
        "images": [{"id": i, "file_name": n, "license": 1} for i, n in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": names.index(name), "caption": caption}
            for i, (name, caption) in enumerate(captions)
        ],
    }
    path = folder / "captions_train2014.json"
    path.write_text(json.dumps(content))
    return BuildConfig(
        source="coco",
        annotations=(path,),
        images=root,
        output=folder / "shards",
        cleaning=CleaningConfig(short_side=64),
    )


def photo(seed: int) -> Image.Image:
    """120 x 100 pixels with detail in all of the frequencies that a perceptual hash looks at."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((120, 100), Image.Resampling.BICUBIC)


def built(config: BuildConfig, **changes: Any) -> dict[str, Any]:
    return build(replace(config, **changes), quiet=True)


def samples(folder: Path) -> list[tuple[str, dict[str, Any], bytes | None]]:
    """Key, fields and image of each sample of a folder of shards, in the order of their rows.

    Keys tell that order; shards have another, and so have JSON lines, which have no keys.
    """
    found = []
    for path in sorted([*folder.glob("*.tar"), *folder.glob("*.jsonl")]):
        for key, files in read_back(path):
            parts = dict(files)
            fields = json.loads(parts.pop("json"))
            found.append((key, fields, next(iter(parts.values()), None)))
    return sorted(found, key=lambda sample: sample[0])


def captions(folder: Path) -> list[str]:
    return [fields["caption"] for _, fields, _ in samples(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def bomb(side: int = 60_000) -> bytes:
    """A PNG of few bytes that claims ``side`` pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))

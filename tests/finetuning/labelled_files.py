"""A small real data set from the embedded corpus, in the forms that users bring."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from flava.data.paths import CORPUS
from flava.data.shards import RawSample, read_shard
from flava.models import Flava, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava.training.checkpoint import save_checkpoint
from tests.tiny_runs import CODEBOOK

SUBGROUPS = ("animal-mammal", "heart", "time")


def samples() -> list[tuple[str, bytes, str, str]]:
    """(key, image file, caption, subgroup) of Twemoji's drawings in three subgroups: 102."""
    found = []
    for raw in read_shard(CORPUS / "pairs" / "twemoji-train.tar.gz"):
        assert isinstance(raw, RawSample)
        meta = json.loads(raw.files["json"])
        if meta["subgroup"] in SUBGROUPS:
            name = raw.key.rpartition("/")[2]
            found.append((name, raw.files["webp"], meta["captions"][0], meta["subgroup"]))
    return found


def write_folder(folder: Path) -> Path:
    """A subfolder of images for each subgroup."""
    for name, image, _, label in samples():
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{name}.webp").write_bytes(image)
    return folder


def write_table(path: Path, *columns: str) -> Path:
    """A CSV of those columns, the images in a folder beside it."""
    write_folder(path.parent / "images")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name, _, caption, label in samples():
            every = {"image": f"images/{label}/{name}.webp", "text": caption, "label": label}
            writer.writerow(every[column] for column in columns)
    return path


def write_model(folder: Path) -> Path:
    """A small untrained FLAVA with the tokeniser's vocabulary."""
    torch.manual_seed(1)
    small: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2, "mlp_width": 64}
    config = FlavaConfig(
        image=ImageConfig(image_size=32, patch_size=8, **small),
        text=TextConfig(max_length=24, **small),
        multimodal=MultimodalConfig(**small),
        projection_width=8,
        codebook=CODEBOOK,
        init_std=0.08,
        token_init_std=0.02,
    )
    return save_checkpoint(folder, "model", Flava(config))

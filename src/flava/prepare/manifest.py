"""manifest.json: what the shards of a folder hold, and all that they were built from and by."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flava.data.manifest import NAME
from flava.prepare.blocks import Tally
from flava.prepare.config import BuildConfig, code
from flava.prepare.shard_files import SEED, write_whole
from flava.prepare.sources import SOURCES

READ_AT_ONCE = 2**20

EXACT = "duplicate of an earlier sample"
NEAR = "near-duplicate of an earlier image"
EVALUATION = "near-duplicate of an image of --against"


def about(config: BuildConfig) -> dict[str, Any]:
    """What must be the same for a build to be gone on with."""
    source = SOURCES[config.source]
    return {
        "source": config.source,
        "config": {
            "cleaning": asdict(config.cleaning.of(source)),
            "rows_per_shard": config.rows_in_block,
            "images": None if config.images is None else config.images.name,
            "against": [path.name for path in config.against],
        },
        "annotations": [described(path) for path in config.annotations],
        "code": code(),
    }


def described(path: Path) -> dict[str, Any]:
    """A file's name, size and digest; of a folder its name."""
    if path.is_dir():
        return {"name": path.name}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def manifest(
    facts: dict[str, Any], tally: Tally, images: int, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The whole of it.

    Args:
        facts: ``about``.
        tally: What became of the rows.
        images: How many different ones the kept pairs have.
        shards: Name, samples, bytes and sha256 of each.
    """
    source = SOURCES[facts["source"]]
    return {
        "source": facts["source"],
        "title": source.title,
        "publisher": source.publisher,
        "licence": source.licence,
        "rows": tally.rows,
        "kept": tally.kept,
        "images": images,
        "bytes": sum(shard["bytes"] for shard in shards),
        "order": "shuffled",
        "seed": SEED,
        "left_out": dict(sorted(tally.left_out.items())),
        "examples": dict(sorted(tally.examples.items())),
        "licences": dict(sorted(tally.licences.items())),
        **{name: facts[name] for name in ("annotations", "config", "code")},
        "shards": shards,
    }


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write it, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=False)
    write_whole(folder / NAME, f"{text}\n".encode(errors="replace"))

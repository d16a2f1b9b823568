"""Writes manifest.json: what the shards of a folder hold, from which files and by which code."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flava.core.files import write_atomically
from flava.data.manifest import NAME
from flava.prepare.blocks import Tally
from flava.prepare.build_config import BuildConfig, code_versions
from flava.prepare.shard_files import SEED
from flava.prepare.sources import SOURCES

READ_AT_ONCE = 2**20
"""Bytes of a file that are hashed at a time."""

EXACT = "duplicate of an earlier sample"
NEAR = "near-duplicate of an earlier image"
EVALUATION = "near-duplicate of an image of --against"


def build_facts(config: BuildConfig) -> dict[str, Any]:
    """The facts that must be the same when a build goes on: config, files and code."""
    source = SOURCES[config.source]
    return {
        "source": config.source,
        "config": {
            "cleaning": asdict(config.cleaning.with_defaults_of(source)),
            "rows_per_shard": config.rows_in_block,
            "images": None if config.images is None else config.images.name,
            "against": [path.name for path in config.against],
        },
        "annotations": [_describe_file(path) for path in config.annotations],
        "code": code_versions(),
    }


def _describe_file(path: Path) -> dict[str, Any]:
    """A file's name, size and digest; of a folder its name."""
    if path.is_dir():
        return {"name": path.name}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def manifest_content(
    facts: dict[str, Any], tally: Tally, images: int, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    """The content of the manifest.

    Args:
        facts: Those of ``build_facts``.
        tally: The rows that were kept and left out.
        images: The number of different images of the kept samples.
        shards: Name, samples, bytes and sha256 of each shard.
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
    """Write the manifest of a folder of shards."""
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=False)
    write_atomically(folder / NAME, f"{text}\n".encode(errors="replace"))

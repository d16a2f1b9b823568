"""`flava data check`: everything read again, and compared with the manifest."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flava.data.build.manifest import READ_AT_ONCE, read_manifest
from flava.data.build.pool import run, workers
from flava.data.errors import SampleError, Skipped
from flava.data.shards import Raw, read_shard
from flava.data.source import image_of

SHARD_SUFFIXES = (".tar", ".jsonl")
FOR_TARS = ("webdataset.tariterators",)
"""What imports PyTorch."""


def check(folder: Path, *, processes: int = 1) -> list[str]:
    """What is wrong with the shards of a folder, a sentence each; nothing if all is well.

    Raises:
        ValueError: the folder has no manifest, or it is damaged.
    """
    content = read_manifest(folder)
    told = {shard["name"]: shard for shard in content["shards"]}
    there = {path.name for path in folder.iterdir() if path.suffix in SHARD_SUFFIXES}
    found = [f"{folder / name}: is missing" for name in sorted(told.keys() - there)]
    found += [f"{folder / name}: is not in the manifest" for name in sorted(there - told.keys())]
    samples = sum(shard["samples"] for shard in told.values())
    if samples != content["kept"]:
        found.append(
            f"{folder}: {samples} samples in the manifest's shards, and {content['kept']} in all"
        )
    given = [(folder / name, told[name]) for name in sorted(told.keys() & there)]
    with workers(processes, modules=FOR_TARS) as pool:
        for mistakes in run(pool, check_shard, given):
            found += mistakes
    return sorted(found)


def check_shard(given: tuple[Path, dict[str, Any]]) -> list[str]:
    """What is wrong with one shard."""
    path, told = given
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    found = []
    for name, now in (("bytes", path.stat().st_size), ("sha256", digest.hexdigest())):
        if now != told[name]:
            found.append(f"{path}: {name} is {now}, and {told[name]} in the manifest")
    count, mistakes = 0, []
    for each in sample_mistakes(path):
        count += 1
        if each:
            mistakes.append(each)
    if count != told["samples"]:
        found.append(f"{path}: {count} samples, and {told['samples']} in the manifest")
    return found + mistakes


def sample_mistakes(path: Path) -> Iterator[str | None]:
    """For each sample what is wrong with it, if anything is."""
    keys: set[str] = set()
    for raw in read_shard(path):
        if isinstance(raw, Skipped):
            yield str(raw)
        elif raw.key in keys:
            yield f"{path}: two samples have the key {raw.key}"
        else:
            keys.add(raw.key)
            yield sample_mistake(path, raw)


def sample_mistake(path: Path, raw: Raw) -> str | None:
    try:
        fields = json.loads(raw.files["json"])
        if path.suffix == ".tar":
            size = image_of(raw).size
            if (fields["width"], fields["height"]) != size:
                detail = (
                    f"{size[0]}x{size[1]}, and {fields['width']}x{fields['height']} in its json"
                )
                return f"{path}: {raw.key}: image is {detail}"
    except (KeyError, TypeError, ValueError, SampleError) as error:
        return f"{path}: {raw.key}: {type(error).__name__}: {error}"
    return None

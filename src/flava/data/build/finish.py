"""The end of a build: duplicates among all blocks taken out, and shards written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from flava.data.build.blocks import EXAMPLES, INDEX, Job, Tally
from flava.data.build.duplicates import near_any, near_earlier, repeated
from flava.data.build.manifest import EVALUATION, EXACT, NEAR
from flava.data.build.pool import Submit, run
from flava.data.build.shard_files import WRITERS, read_back, write_whole

DEFAULT_BITS = 3
"""Bits for --against where near-duplicates among the pairs are kept."""
CAUSES = (EXACT, EVALUATION, NEAR)


def find_duplicates(job: Job, sizes: list[int], *, against: bool) -> tuple[np.ndarray, int]:
    """Why each sample is left out (a place in CAUSES from 1 on; 0: it is kept); images kept."""
    columns = joined(job, sizes)
    causes = np.zeros(sum(sizes), np.uint8)
    causes[repeated(columns["content"])] = 1
    if not job.wants_image:
        return causes, 0
    distance = job.cleaning.near_duplicates
    if against:
        bits = DEFAULT_BITS if distance is None else distance
        causes[(causes == 0) & near_any(columns["looks"], np.load(job.evaluation), bits)] = 2
    if distance is not None:
        kept = causes == 0
        causes[near_earlier(columns["looks"], columns["image"], distance, among=kept)] = 3
    kept = causes == 0
    again = repeated(columns["image"], among=kept)
    return causes, int(kept.sum() - again.sum())


def count_causes(causes: np.ndarray, job: Job, sizes: list[int], tally: Tally) -> None:
    """Add what is left out for being a duplicate, and name the first of it."""
    for number, cause in enumerate(CAUSES, 1):
        found = causes == number
        if left_out := int(np.count_nonzero(found)):
            tally.left_out[cause] = left_out
            first = np.flatnonzero(found)[:EXAMPLES].tolist()
            tally.examples[cause] = [f"{place_of(job, sizes, each)}: {cause}" for each in first]
    tally.kept = int(np.count_nonzero(causes == 0))


def place_of(job: Job, sizes: list[int], sample: int) -> str:
    """The row of a sample, told by its place among all of them."""
    number = 0
    while sample >= sizes[number]:
        sample -= sizes[number]
        number += 1
    return json.loads(job.places(number).read_bytes())[sample]


def joined(job: Job, sizes: list[int]) -> dict[str, np.ndarray]:
    """The columns of all blocks' indices, in files and not in memory."""
    columns = {name: mapped(job.folder / f"{name}.npy", sum(sizes)) for name in INDEX.names or ()}
    start = 0
    for number, count in enumerate(sizes):
        index = np.load(job.index(number))
        for name, column in columns.items():
            column[start : start + count] = index[name]
        start += count
    return columns


def mapped(path: Path, size: int) -> np.ndarray:
    """Numbers in a file, not in memory."""
    if not size:
        return np.zeros(0, np.uint64)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint64, shape=(size,))


def write_shards(
    job: Job, output: Path, sizes: list[int], causes: np.ndarray, pool: tuple[Submit, int]
) -> list[dict[str, Any]]:
    """The shards that hold something, numbered without gaps, and what the manifest tells of them.

    A block stays until all shards are written, so that a killed build can go on here too.
    """
    pieces = []
    start = 0
    for number, size in enumerate(sizes):
        keep = causes[start : start + size] == 0
        start += size
        if keep.any():
            name = f"{job.source}-{len(pieces):06d}{job.suffix}"
            pieces.append((number, output / name, keep))
    written = list(run(pool, write_shard, pieces, job))
    return sorted(written, key=lambda shard: shard["name"])


def write_shard(piece: tuple[int, Path, np.ndarray], job: Job) -> dict[str, Any]:
    """One shard: the block's samples that are kept."""
    number, path, keep = piece
    record = job.folder / f"shard-{path.name}.json"
    if record.exists():
        return json.loads(record.read_bytes())
    writer = WRITERS[job.suffix](path)
    try:
        for kept, (key, files) in zip(keep, read_back(job.shard(number)), strict=True):
            if kept:
                writer.add(key, files)
        written = writer.finish()
    finally:
        writer.drop()
    told = {
        "name": path.name,
        "samples": int(keep.sum()),
        "bytes": written.bytes,
        "sha256": written.sha256,
    }
    write_whole(record, json.dumps(told).encode())
    return told

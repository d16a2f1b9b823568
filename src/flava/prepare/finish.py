"""The end of a build: leaves out duplicates, and distributes the other samples over the shards."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flava.core.files import atomic_file, save_array, write_atomically
from flava.core.processes import Submit, map_unordered
from flava.core.progress import Progress
from flava.data.errors import SampleError
from flava.data.shards import read_range
from flava.prepare.blocks import EXAMPLES, HASHES, Job, RowBlock, Tally, cut_blocks
from flava.prepare.build_manifest import EVALUATION, EXACT, NEAR
from flava.prepare.duplicates import near_any, near_earlier, repeated
from flava.prepare.images import Folder, perceptual_hash_of_file
from flava.prepare.rows import AnnotationRow
from flava.prepare.shard_files import Permutation, open_shard
from flava.prepare.user_data import image_rows

HASHED_AT_ONCE = 1000
"""Images that a process hashes at a time."""


def hash_evaluation_sets(
    sets: Sequence[Path], short_side: int | None, pool: tuple[Submit, int], path: Path
) -> list[str]:
    """Write the perceptual hashes of all images; returns reports on those that cannot be read.

    Raises:
        ValueError: a set holds no image that can be read.
    """
    phashes: list[np.ndarray] = []
    unread: list[str] = []
    for each in sets:
        count = 0
        blocks = cut_blocks(image_rows([each]), HASHED_AT_ONCE)
        for hashes, messages in map_unordered(pool, _hash_block, blocks, each, short_side):
            phashes.append(hashes)
            count += len(hashes)
            unread += messages
        if not count:
            raise ValueError(
                f"--against {each} holds no image that can be read: give a folder of images, or of "
                "tars or Parquet that hold them, or a table that lists them"
            )
    save_array(path, np.unique(np.concatenate(phashes)))
    return sorted(unread)


def _hash_block(
    block: RowBlock, source: Path, short_side: int | None
) -> tuple[np.ndarray, list[str]]:
    """The hashes of a block's images, and messages about those that cannot be read."""
    images = Folder(source if source.is_dir() else source.parent)
    phashes, unread = [], []
    for row in block.rows:
        if not isinstance(row, AnnotationRow):
            unread.append(str(row))
            continue
        try:
            phashes.append(perceptual_hash_of_file(images.read(row), short_side))
        except SampleError as error:
            unread.append(f"{row.location}: {error}")
    return np.array(phashes, np.uint64), unread


DEFAULT_DISTANCE = 3
"""Bits in which hashes may differ for --against, if near-duplicates among the pairs are kept."""
DUPLICATE_REASONS = (EXACT, EVALUATION, NEAR)
"""In this order they are numbered from 1 on."""
KEPT = np.dtype([("start", "<u8"), ("size", "<u4"), ("block", "<u4")])
"""An entry for each kept sample: its block, where it begins in the block's file, its bytes."""


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """A shard to write: places ``first`` to ``end`` - 1 in the random order of ``kept`` samples."""

    path: Path
    first: int
    end: int
    kept: int


def find_duplicates(job: Job, sizes: list[int], *, against: bool) -> tuple[np.ndarray, int]:
    """Which samples are left out, and the number of different images that are kept.

    Returns for each sample the number of its reason in ``DUPLICATE_REASONS``, or 0 if it is kept.
    """
    columns = _join_hashes(job, sizes)
    reasons = np.zeros(sum(sizes), np.uint8)
    if job.cleaning.drop_duplicates:
        reasons[repeated(columns["content"])] = 1
    if not job.wants_image:
        return reasons, 0
    distance = job.cleaning.near_duplicates
    if against:
        bits = DEFAULT_DISTANCE if distance is None else distance
        reasons[(reasons == 0) & near_any(columns["phash"], np.load(job.evaluation), bits)] = 2
    if distance is not None and job.cleaning.drop_duplicates:
        kept = reasons == 0
        reasons[near_earlier(columns["phash"], columns["image"], distance, among=kept)] = 3
    kept = reasons == 0
    later = repeated(columns["image"], among=kept)
    return reasons, int(kept.sum() - later.sum())


def count_duplicates(reasons: np.ndarray, job: Job, sizes: list[int], tally: Tally) -> None:
    """Add the duplicates to the tally, and name the first of each reason."""
    for number, reason in enumerate(DUPLICATE_REASONS, 1):
        duplicates = reasons == number
        if left_out := int(np.count_nonzero(duplicates)):
            tally.left_out[reason] = left_out
            first = np.flatnonzero(duplicates)[:EXAMPLES].tolist()
            rows = [_row_of_sample(job, sizes, each) for each in first]
            tally.examples[reason] = [f"{row}: {reason}" for row in rows]
    tally.kept = int(np.count_nonzero(reasons == 0))


def _row_of_sample(job: Job, sizes: list[int], sample: int) -> str:
    """The location of a sample's row; ``sample`` is its number among all of them."""
    number = 0
    while sample >= sizes[number]:
        sample -= sizes[number]
        number += 1
    return json.loads(job.locations(number).read_bytes())[sample]


def _join_hashes(job: Job, sizes: list[int]) -> dict[str, np.ndarray]:
    """The hashes of all blocks' samples, by name, in files that are mapped into memory."""
    columns = {name: _memory_mapped(job.folder / f"{name}.npy", sum(sizes)) for name in HASHES}
    start = 0
    for number, count in enumerate(sizes):
        index = np.load(job.index(number))
        for name, column in columns.items():
            column[start : start + count] = index[name]
        start += count
    return columns


def _memory_mapped(path: Path, size: int) -> np.ndarray:
    """An array of hashes in a file that is mapped into memory."""
    if not size:
        return np.zeros(0, np.uint64)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint64, shape=(size,))


def write_shards(
    job: Job,
    output: Path,
    sizes: list[int],
    reasons: np.ndarray,
    pool: tuple[Submit, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Write all kept samples in a random order; returns the manifest's entry of each shard.

    There are as many shards as blocks that hold a sample, and they are of equal size. Blocks stay
    until all shards are written, so that a killed build can go on here too.
    """
    count = _list_kept(job, sizes, reasons)
    kept = int(np.count_nonzero(reasons == 0))
    plans = [
        ShardPlan(
            path=output / f"{job.source}-{number:06d}{job.suffix}",
            first=kept * number // count,
            end=kept * (number + 1) // count,
            kept=kept,
        )
        for number in range(count)
    ]
    written = []
    for shard in map_unordered(pool, _write_shard, plans, job):
        progress.advance(shard["samples"])
        written.append(shard)
    return sorted(written, key=lambda shard: shard["name"])


def _list_kept(job: Job, sizes: list[int], reasons: np.ndarray) -> int:
    """Write an entry of KEPT for each kept sample; returns how many blocks hold one."""
    start = count = 0
    with atomic_file(job.kept) as partial, partial.open("wb") as file:
        for number, size in enumerate(sizes):
            index = np.load(job.index(number))[reasons[start : start + size] == 0]
            kept = np.zeros(len(index), KEPT)
            kept["block"], kept["start"], kept["size"] = number, index["start"], index["size"]
            file.write(kept.tobytes())
            start += size
            count += bool(len(index))
    return count


def _write_shard(plan: ShardPlan, job: Job) -> dict[str, Any]:
    """Copy a shard's samples from their blocks; returns its entry in the manifest."""
    record = job.folder / f"shard-{plan.path.name}.json"
    if record.exists():
        return json.loads(record.read_bytes())
    kept = np.memmap(job.kept, KEPT, mode="r")
    samples = Permutation(plan.kept, job.source)(np.arange(plan.first, plan.end))
    with open_shard(plan.path) as writer:
        for start, size, block in kept[samples].tolist():
            writer.append(read_range(job.shard(block), start, size))
    entry = {
        "name": plan.path.name,
        "samples": len(samples),
        "bytes": writer.size,
        "sha256": writer.sha256,
    }
    write_atomically(record, json.dumps(entry).encode())
    return entry

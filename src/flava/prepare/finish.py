"""The end of a build: duplicates left out, the other samples dealt to shards."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flava.core.files import atomic_file
from flava.core.processes import Submit, map_unordered
from flava.core.progress import Progress
from flava.data.errors import SampleError
from flava.data.shards import read_range
from flava.prepare.blocks import EXAMPLES, HASHES, Job, RowBlock, Tally, cut_blocks
from flava.prepare.duplicates import near_any, near_earlier, repeated
from flava.prepare.manifest import EVALUATION, EXACT, NEAR
from flava.prepare.own import image_rows
from flava.prepare.pictures import Folder, looks_of_file
from flava.prepare.rows import AnnotationRow
from flava.prepare.shard_files import Permutation, ShardWriter, save, write_whole

BLOCK = 1000
"""Images that a process hashes at a time."""


def hash_evaluation_sets(
    sets: Sequence[Path], short_side: int | None, pool: tuple[Submit, int], path: Path
) -> list[str]:
    """Write the perceptual hashes of all images, each once, and tell what could not be read.

    Raises:
        ValueError: a set holds no image that can be read.
    """
    looks: list[np.ndarray] = []
    unread: list[str] = []
    for each in sets:
        found = 0
        for hashes, messages in map_unordered(pool, hash_block, blocks_of(each), each, short_side):
            looks.append(hashes)
            found += len(hashes)
            unread += messages
        if not found:
            raise ValueError(
                f"--against {each} holds no image that can be read: give a folder of images, or of "
                "tars or Parquet that hold them, or a table that lists them"
            )
    save(path, np.unique(np.concatenate(looks)))
    return sorted(unread)


def blocks_of(place: Path) -> Iterator[RowBlock]:
    return cut_blocks(image_rows([place]), BLOCK)


def hash_block(
    block: RowBlock, place: Path, short_side: int | None
) -> tuple[np.ndarray, list[str]]:
    """The hashes of its images, and messages about those that cannot be read."""
    images = Folder(place if place.is_dir() else place.parent)
    looks, unread = [], []
    for row in block.rows:
        if not isinstance(row, AnnotationRow):
            unread.append(str(row))
            continue
        try:
            looks.append(looks_of_file(images.read(row), short_side))
        except SampleError as error:
            unread.append(f"{row.place}: {error}")
    return np.array(looks, np.uint64), unread


DEFAULT_BITS = 3
"""Bits for --against where near-duplicates among the pairs are kept."""
CAUSES = (EXACT, EVALUATION, NEAR)
KEPT = np.dtype([("start", "<u8"), ("size", "<u4"), ("block", "<u4")])
"""Of each kept sample: where it begins in its block's file, its bytes there, and which block."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A shard to write: the places ``first`` to ``end`` of the random order of ``kept`` samples."""

    path: Path
    first: int
    end: int
    kept: int


def find_duplicates(job: Job, sizes: list[int], *, against: bool) -> tuple[np.ndarray, int]:
    """Why each sample is left out (a place in CAUSES from 1 on; 0: it is kept); images kept."""
    columns = joined(job, sizes)
    causes = np.zeros(sum(sizes), np.uint8)
    if job.cleaning.drop_duplicates:
        causes[repeated(columns["content"])] = 1
    if not job.wants_image:
        return causes, 0
    distance = job.cleaning.near_duplicates
    if against:
        bits = DEFAULT_BITS if distance is None else distance
        causes[(causes == 0) & near_any(columns["looks"], np.load(job.evaluation), bits)] = 2
    if distance is not None and job.cleaning.drop_duplicates:
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
    """The hashes of all blocks' samples, in files and not in memory."""
    columns = {name: mapped(job.folder / f"{name}.npy", sum(sizes)) for name in HASHES}
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
    job: Job,
    output: Path,
    sizes: list[int],
    causes: np.ndarray,
    pool: tuple[Submit, int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """All kept samples in a random order, and what the manifest tells of their shards.

    There are as many shards as blocks that hold something, of equal size. A block stays until all
    are written, so that a killed build can go on here too.
    """
    count = list_kept(job, sizes, causes)
    kept = int(np.count_nonzero(causes == 0))
    pieces = [
        Piece(
            path=output / f"{job.source}-{number:06d}{job.suffix}",
            first=kept * number // count,
            end=kept * (number + 1) // count,
            kept=kept,
        )
        for number in range(count)
    ]
    written = []
    for shard in map_unordered(pool, write_shard, pieces, job):
        progress.advance(shard["samples"])
        written.append(shard)
    return sorted(written, key=lambda shard: shard["name"])


def list_kept(job: Job, sizes: list[int], causes: np.ndarray) -> int:
    """Write where the kept samples are, as they follow one another; how many blocks have one."""
    start = count = 0
    with atomic_file(job.kept) as partial, partial.open("wb") as file:
        for number, size in enumerate(sizes):
            index = np.load(job.index(number))[causes[start : start + size] == 0]
            found = np.zeros(len(index), KEPT)
            found["block"], found["start"], found["size"] = number, index["start"], index["size"]
            file.write(found.tobytes())
            start += size
            count += bool(len(index))
    return count


def write_shard(piece: Piece, job: Job) -> dict[str, Any]:
    """One shard: the samples at its places of the random order, copied from their blocks."""
    record = job.folder / f"shard-{piece.path.name}.json"
    if record.exists():
        return json.loads(record.read_bytes())
    kept = np.memmap(job.kept, KEPT, mode="r")
    places = np.arange(piece.first, piece.end)
    writer = ShardWriter(piece.path)
    try:
        for start, size, block in kept[Permutation(piece.kept, job.source)(places)].tolist():
            writer.append(read_range(job.shard(block), start, size))
        written = writer.finish()
    finally:
        writer.drop()
    told = {
        "name": piece.path.name,
        "samples": len(places),
        "bytes": written.bytes,
        "sha256": written.sha256,
    }
    write_whole(record, json.dumps(told).encode())
    return told

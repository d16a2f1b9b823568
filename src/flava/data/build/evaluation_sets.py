"""The images that no pair may look like: of evaluation sets, and of shards built before."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from flava.data.build.blocks import Block, cut_blocks
from flava.data.build.images import Folder
from flava.data.build.own import image_rows
from flava.data.build.pictures import looks_of_file
from flava.data.build.pool import Submit, run
from flava.data.build.rows import Row
from flava.data.build.shard_files import save
from flava.data.errors import SampleError

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
        for hashes, messages in run(pool, hash_block, blocks_of(each), each, short_side):
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


def blocks_of(place: Path) -> Iterator[Block]:
    return cut_blocks(image_rows([place]), BLOCK)


def hash_block(block: Block, place: Path, short_side: int | None) -> tuple[np.ndarray, list[str]]:
    """The hashes of its images, and messages about those that cannot be read."""
    images = Folder(place if place.is_dir() else place.parent)
    looks, unread = [], []
    for row in block.rows:
        if not isinstance(row, Row):
            unread.append(str(row))
            continue
        try:
            looks.append(looks_of_file(images.read(row), short_side))
        except SampleError as error:
            unread.append(f"{row.place}: {error}")
    return np.array(looks, np.uint64), unread

"""A block of rows to a shard: what every process does, on one machine or many.

A block is so many rows of the source, as they follow one another; what its shard holds depends on
these rows and the settings alone. So shards can be made in any order by any number of processes,
and a build that was killed makes only those that are missing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flava.data.build.captions import caption_of
from flava.data.build.config import CleaningConfig
from flava.data.build.images import Images, open_images
from flava.data.build.pictures import picture_of
from flava.data.build.rows import Found, Row
from flava.data.build.shard_files import WRITERS, Files, save, write_whole
from flava.data.build.urls import check_url
from flava.data.errors import SampleError, Skipped

EXAMPLES = 3
"""Of each reason for leaving out, named in the manifest."""
BYTES_OF_ROWS = 2**28
"""A block ends before its rows hold more than this, in images that stand in the annotations."""

INDEX = np.dtype([("content", "<u8"), ("image", "<u8"), ("looks", "<u8")])
"""Of each sample: hashes of all of it and of its image's identity; the perceptual hash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Rows that become a shard."""

    number: int
    rows: tuple[Found, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done to the blocks of a build."""

    source: str
    folder: Path
    """Where unfinished shards are kept."""
    images: Path | None
    cleaning: CleaningConfig
    suffix: str = ".tar"
    wants_image: bool = True
    wants_caption: bool = True

    @property
    def evaluation(self) -> Path:
        """The hashes of the evaluation sets' images."""
        return self.folder / "against.npy"

    def shard(self, number: int) -> Path:
        """What a block's rows become, before duplicates are taken out."""
        return self.folder / f"block-{number:06d}{self.suffix}"

    def index(self, number: int) -> Path:
        """Its samples' hashes."""
        return self.folder / f"block-{number:06d}.npy"

    def record(self, number: int) -> Path:
        """What was done; the block is done when this is there."""
        return self.folder / f"block-{number:06d}.json"


@dataclass(kw_only=True)
class Tally:
    """What became of rows."""

    rows: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    licences: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, message: str) -> None:
        """Count a row, and name it if it is among the first of its reason."""
        self.left_out[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(message)

    def add(self, other: "Tally") -> None:
        """Those that follow these in the source's order."""
        self.rows += other.rows
        self.kept += other.kept
        self.left_out += other.left_out
        self.licences += other.licences
        for reason, messages in other.examples.items():
            named = self.examples.setdefault(reason, [])
            named += messages[: EXAMPLES - len(named)]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row as it is written."""

    files: Files
    content: int
    image: int
    looks: int
    licence: str | None


def cut_blocks(rows: Iterable[Found], size: int) -> Iterator[Block]:
    """All rows, ``size`` at a time, or fewer where they are heavy."""
    held: list[Found] = []
    weight = number = 0
    for row in rows:
        heavy = len(row.data) if isinstance(row, Row) and row.data is not None else 0
        if held and (len(held) == size or weight + heavy > BYTES_OF_ROWS):
            yield Block(number=number, rows=tuple(held))
            held, weight, number = [], 0, number + 1
        held.append(row)
        weight += heavy
    if held:
        yield Block(number=number, rows=tuple(held))


def build_block(block: Block, job: Job) -> int:
    """Write a block's shard, index and record, in this order; the number of its rows.

    Raises:
        OSError: they could not be written; no part of them is left.
    """
    images = open_images(job.images, job.folder / "fetched")
    tally = Tally(rows=len(block.rows))
    index = np.zeros(len(block.rows), INDEX)
    writer = WRITERS[job.suffix](job.shard(block.number))
    try:
        for place, row in enumerate(block.rows):
            if isinstance(row, Skipped):
                tally.leave_out(row.reason, f"{row.key}: {row.message}")
                continue
            try:
                sample = sample_of(row, images, job)
            except SampleError as error:
                tally.leave_out(error.reason, f"{row.place}: {error}")
                continue
            writer.add(f"{block.number:06d}{place:06d}", sample.files)
            index[tally.kept] = (sample.content, sample.image, sample.looks)
            tally.kept += 1
            if sample.licence:
                tally.licences[sample.licence] += 1
        written = writer.finish()
        save(job.index(block.number), index[: tally.kept])
        record = {"bytes": written.bytes, "sha256": written.sha256, **to_json(tally)}
        write_whole(job.record(block.number), json.dumps(record).encode())
    finally:
        writer.drop()
    return len(block.rows)


def sample_of(row: Row, images: Images, job: Job) -> Sample:
    """A row looked at.

    Raises:
        SampleError: it is left out.
    """
    cleaning, fields = job.cleaning, dict(row.fields)
    if job.wants_caption:
        fields["caption"] = caption_of(
            row.captions, cleaning.min_words or 1, bool(cleaning.english)
        )
    if row.url is not None:
        fields["url"] = check_url(row.url)
    if row.licence:
        fields["licence"] = row.licence
    files: list[tuple[str, bytes]] = []
    looks, digest = 0, hashlib.blake2b(digest_size=8)
    if job.wants_image:
        picture = picture_of(
            images.read(row),
            row.box,
            short_side=cleaning.short_side,
            min_side=cleaning.min_side,
        )
        fields |= {"width": picture.width, "height": picture.height}
        files.append((picture.suffix, picture.data))
        looks = picture.looks
        digest.update(picture.data)
    digest.update(str(fields.get("caption", "")).encode())
    files.append(("json", json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()))
    return Sample(
        files=files,
        content=int.from_bytes(digest.digest()),
        image=identity_of(row),
        looks=looks,
        licence=row.licence,
    )


def identity_of(row: Row) -> int:
    """64 bits that rows of one image share."""
    digest = hashlib.blake2b(row.identity.encode(errors="surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest())


def to_json(tally: Tally) -> dict[str, Any]:
    return {
        "rows": tally.rows,
        "kept": tally.kept,
        "left_out": dict(tally.left_out),
        "examples": tally.examples,
        "licences": dict(tally.licences),
    }


def from_json(record: dict[str, Any]) -> Tally:
    return Tally(
        rows=record["rows"],
        kept=record["kept"],
        left_out=Counter(record["left_out"]),
        examples=record["examples"],
        licences=Counter(record["licences"]),
    )

"""Turns blocks of rows into files of samples: the work of each process, on one machine or many.

A block is a fixed number of consecutive rows of the source. What its file holds depends on these
rows and the settings alone. So any number of processes can build blocks in any order, and a build
that was killed goes on with the blocks that are missing. At the end the samples of all blocks are
dealt to shards (``finish``).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flava.core.files import save_array, write_atomically
from flava.data.errors import SampleError, SkippedSample
from flava.prepare.build_config import CleaningConfig
from flava.prepare.duplicates import hash64
from flava.prepare.fetched import check_url
from flava.prepare.images import ImageStore, open_images, shard_image
from flava.prepare.rows import AnnotationRow, RowOrSkipped
from flava.prepare.shard_files import SampleFiles, open_shard
from flava.prepare.texts import caption_of, packed_lines, passages, sentences_of

EXAMPLES = 3
"""Rows that the manifest names for each reason for which rows were left out."""
BYTES_OF_ROWS = 2**26
"""A block ends before the images that stand in its rows take more bytes than this."""

HASHES = ("content", "image", "phash")
"""A sample's hashes: of all of it, of its image's name or URL, and the perceptual hash (pHash)."""
INDEX = np.dtype([*((name, "<u8") for name in HASHES), ("start", "<u8"), ("size", "<u4")])
"""An entry for each sample: its hashes, where it begins in the block's file, its bytes there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlock:
    """Rows that are cleaned together."""

    number: int
    rows: tuple[RowOrSkipped, ...]


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings that all blocks of a build share, and the paths of a block's files."""

    source: str
    folder: Path
    """Where the files of an unfinished build are."""
    images: Path | None
    cleaning: CleaningConfig
    suffix: str = ".tar"
    wants_image: bool = True
    wants_caption: bool = True
    one_text: bool = False

    @property
    def evaluation(self) -> Path:
        """The perceptual hashes of the evaluation sets' images."""
        return self.folder / "against.npy"

    def shard(self, number: int) -> Path:
        """A block's samples in the order of its rows, duplicates among them."""
        return self.folder / f"block-{number:06d}{self.suffix}"

    @property
    def kept(self) -> Path:
        """Where each sample lies that is no duplicate."""
        return self.folder / "kept"

    def index(self, number: int) -> Path:
        """An entry of INDEX for each sample of a block."""
        return self.folder / f"block-{number:06d}.npy"

    def locations(self, number: int) -> Path:
        """The row of each sample (FILE:ROW), to name some of the duplicates."""
        return self.folder / f"block-{number:06d}.locations"

    def record(self, number: int) -> Path:
        """The block's tally; it is written last, so that the block is done when it exists."""
        return self.folder / f"block-{number:06d}.json"


@dataclass(kw_only=True)
class Tally:
    """How many rows were kept, and how many were left out for which reasons."""

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
        """Add the tally of the rows that follow in the source's order."""
        self.rows += other.rows
        self.kept += other.kept
        self.left_out += other.left_out
        self.licences += other.licences
        for reason, messages in other.examples.items():
            named = self.examples.setdefault(reason, [])
            named += messages[: EXAMPLES - len(named)]


@dataclass(frozen=True, kw_only=True)
class BuiltSample:
    """A sample that is ready to be written."""

    location: str
    """The row that it comes from: FILE:ROW."""
    files: SampleFiles
    content: int
    """Hash of the whole sample."""
    image: int = 0
    """Hash of its image's URL or name, which rows of one image share."""
    phash: int = 0
    """Perceptual hash of its image."""
    licence: str | None = None


def cut_blocks(rows: Iterable[RowOrSkipped], size: int) -> Iterator[RowBlock]:
    """All rows in blocks of ``size``, or of fewer rows where these hold large images."""
    block: list[RowOrSkipped] = []
    block_bytes = number = 0
    for row in rows:
        row_bytes = len(row.data) if isinstance(row, AnnotationRow) and row.data is not None else 0
        if block and (len(block) == size or block_bytes + row_bytes > BYTES_OF_ROWS):
            yield RowBlock(number=number, rows=tuple(block))
            block, block_bytes, number = [], 0, number + 1
        block.append(row)
        block_bytes += row_bytes
    if block:
        yield RowBlock(number=number, rows=tuple(block))


def build_block(block: RowBlock, job: Job) -> int:
    """Write a block's shard, index, locations and record, in this order; returns its rows' number.

    Raises:
        OSError: a file could not be written; no part of that file is left.
    """
    tally = Tally(rows=len(block.rows))
    index: list[tuple[int, ...]] = []
    locations: list[str] = []
    with open_shard(job.shard(block.number)) as writer:
        for sample in _build_samples(block, job, tally):
            start, size = writer.add(f"{block.number:06d}{tally.kept:06d}", sample.files)
            index.append((sample.content, sample.image, sample.phash, start, size))
            locations.append(sample.location)
            tally.kept += 1
            if sample.licence:
                tally.licences[sample.licence] += 1
    save_array(job.index(block.number), np.array(index, INDEX))
    write_atomically(job.locations(block.number), json.dumps(locations).encode())
    record = {"bytes": writer.size, "sha256": writer.sha256, **_to_json(tally)}
    write_atomically(job.record(block.number), json.dumps(record).encode())
    return len(block.rows)


def _build_samples(block: RowBlock, job: Job, tally: Tally) -> Iterator[BuiltSample]:
    """The samples of a block; rows that are left out are counted in ``tally``."""
    if not job.wants_image:
        yield from _text_samples(block, job, tally)
        return
    images = open_images(job.images, job.folder / "fetched")
    for row in _usable_rows(block, tally):
        try:
            yield _image_sample(row, images, job)
        except SampleError as error:
            tally.leave_out(error.reason, f"{row.location}: {error}")


def _usable_rows(block: RowBlock, tally: Tally) -> Iterator[AnnotationRow]:
    """The rows that could be read; the others are counted in ``tally``."""
    for row in block.rows:
        if isinstance(row, SkippedSample):
            # A report on a whole file has no key. Messages hold no folders: a manifest has none.
            tally.leave_out(row.reason, f"{row.key or Path(row.shard).name}: {row.message}")
        else:
            yield row


def _text_samples(block: RowBlock, job: Job, tally: Tally) -> Iterator[BuiltSample]:
    """A sample for each line of a document, or of a passage if all rows are one text."""
    documents = _split_sentences(block, tally)
    for location, sentences in passages(documents) if job.one_text else documents:
        for line in packed_lines(sentences, job.cleaning.text_tokens):
            content = json.dumps({"text": line}, ensure_ascii=False).encode()
            yield BuiltSample(location=location, files=[("json", content)], content=hash64(content))


def _split_sentences(block: RowBlock, tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """The location of each row, and the sentences of its text."""
    for row in _usable_rows(block, tally):
        try:
            yield row.location, sentences_of(row.captions[0])
        except SampleError as error:
            tally.leave_out(error.reason, f"{row.location}: {error}")


def _image_sample(row: AnnotationRow, images: ImageStore, job: Job) -> BuiltSample:
    """The sample of a row: its image, and its caption if the source has captions.

    Raises:
        SampleError: the row is to be left out.
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
    image = shard_image(
        images.read(row), row.box, short_side=cleaning.short_side, min_side=cleaning.min_side or 1
    )
    fields |= {"width": image.width, "height": image.height}
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
    return BuiltSample(
        location=row.location,
        files=[(image.suffix, image.data), ("json", text)],
        content=hash64(image.data + str(fields.get("caption", "")).encode()),
        image=hash64(row.identity.encode(errors="surrogateescape")),
        phash=image.phash,
        licence=row.licence,
    )


def _to_json(tally: Tally) -> dict[str, Any]:
    """What ``from_json`` turns into the same tally."""
    return {
        "rows": tally.rows,
        "kept": tally.kept,
        "left_out": dict(tally.left_out),
        "examples": tally.examples,
        "licences": dict(tally.licences),
    }


def from_json(record: dict[str, Any]) -> Tally:
    """A block's tally from its record."""
    return Tally(
        rows=record["rows"],
        kept=record["kept"],
        left_out=Counter(record["left_out"]),
        examples=record["examples"],
        licences=Counter(record["licences"]),
    )

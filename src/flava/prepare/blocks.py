"""A block of rows to a file of samples: what every process does, on one machine or many.

A block is so many rows of the source, as they follow one another; what its file holds depends on
these rows and the settings alone. So blocks can be made in any order by any number of processes,
and a build that was killed makes only those that are missing. The samples of all blocks are dealt
to shards at the end (``finish``).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flava.data.errors import SampleError, SkippedSample
from flava.prepare.config import CleaningConfig
from flava.prepare.duplicates import hash_of
from flava.prepare.fetched import check_url
from flava.prepare.pictures import ImageStore, open_images, picture_of
from flava.prepare.rows import AnnotationRow, RowOrSkipped
from flava.prepare.shard_files import Files, ShardWriter, save, write_whole
from flava.prepare.texts import caption_of, packed, passages, sentences_of

EXAMPLES = 3
"""Of each reason for leaving out, named in the manifest."""
BYTES_OF_ROWS = 2**26
"""A block ends before its rows hold more than this, in images that stand in the annotations."""

HASHES = ("content", "image", "looks")
"""Of all of a sample and of its image's identity; the perceptual hash."""
INDEX = np.dtype([*((name, "<u8") for name in HASHES), ("start", "<u8"), ("size", "<u4")])
"""Of each sample: its hashes, and where it begins in the block's shard, and its bytes there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBlock:
    """Rows that are cleaned together."""

    number: int
    rows: tuple[RowOrSkipped, ...]


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
    one_text: bool = False

    @property
    def evaluation(self) -> Path:
        """The hashes of the evaluation sets' images."""
        return self.folder / "against.npy"

    def shard(self, number: int) -> Path:
        """What a block's rows become, in their order, duplicates among them."""
        return self.folder / f"block-{number:06d}{self.suffix}"

    @property
    def kept(self) -> Path:
        """Where all samples are that are no duplicates."""
        return self.folder / "kept"

    def index(self, number: int) -> Path:
        """Its samples' hashes and places."""
        return self.folder / f"block-{number:06d}.npy"

    def places(self, number: int) -> Path:
        """Which rows its samples are of, to name some of those that turn out to be duplicates."""
        return self.folder / f"block-{number:06d}.places"

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
class BuiltSample:
    """A row as it is written."""

    place: str
    """Of the row."""
    files: Files
    content: int
    """Hash of all of it."""
    image: int = 0
    """Hash of what its image is called."""
    looks: int = 0
    """Perceptual hash."""
    licence: str | None = None


def cut_blocks(rows: Iterable[RowOrSkipped], size: int) -> Iterator[RowBlock]:
    """All rows, ``size`` at a time, or fewer where they are heavy."""
    held: list[RowOrSkipped] = []
    weight = number = 0
    for row in rows:
        heavy = len(row.data) if isinstance(row, AnnotationRow) and row.data is not None else 0
        if held and (len(held) == size or weight + heavy > BYTES_OF_ROWS):
            yield RowBlock(number=number, rows=tuple(held))
            held, weight, number = [], 0, number + 1
        held.append(row)
        weight += heavy
    if held:
        yield RowBlock(number=number, rows=tuple(held))


def build_block(block: RowBlock, job: Job) -> int:
    """Write a block's shard, index, places and record, in this order; the number of its rows.

    Raises:
        OSError: they could not be written; no part of them is left.
    """
    tally = Tally(rows=len(block.rows))
    index: list[tuple[int, ...]] = []
    places: list[str] = []
    writer = ShardWriter(job.shard(block.number))
    try:
        for sample in samples_of(block, job, tally):
            where = writer.add(f"{block.number:06d}{tally.kept:06d}", sample.files)
            index.append((sample.content, sample.image, sample.looks, *where))
            places.append(sample.place)
            tally.kept += 1
            if sample.licence:
                tally.licences[sample.licence] += 1
        written = writer.finish()
        save(job.index(block.number), np.array(index, INDEX))
        write_whole(job.places(block.number), json.dumps(places).encode())
        record = {"bytes": written.bytes, "sha256": written.sha256, **to_json(tally)}
        write_whole(job.record(block.number), json.dumps(record).encode())
    finally:
        writer.drop()
    return len(block.rows)


def samples_of(block: RowBlock, job: Job, tally: Tally) -> Iterator[BuiltSample]:
    """What is kept of a block; what is left out is counted."""
    if not job.wants_image:
        yield from text_samples(block, job, tally)
        return
    images = open_images(job.images, job.folder / "fetched")
    for row in readable(block, tally):
        try:
            yield image_sample(row, images, job)
        except SampleError as error:
            tally.leave_out(error.reason, f"{row.place}: {error}")


def readable(block: RowBlock, tally: Tally) -> Iterator[AnnotationRow]:
    for row in block.rows:
        if isinstance(row, SkippedSample):
            tally.leave_out(row.reason, f"{row.key}: {row.message}")
        else:
            yield row


def text_samples(block: RowBlock, job: Job, tally: Tally) -> Iterator[BuiltSample]:
    """The lines of each document, or passage where rows are sentences of one text."""
    documents = divided(block, tally)
    for place, sentences in passages(documents) if job.one_text else documents:
        for line in packed(sentences, job.cleaning.text_tokens):
            content = json.dumps({"text": line}, ensure_ascii=False).encode()
            yield BuiltSample(place=place, files=[("json", content)], content=hash_of(content))


def divided(block: RowBlock, tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """The place of each row, and the sentences of its text."""
    for row in readable(block, tally):
        try:
            yield row.place, sentences_of(row.captions[0])
        except SampleError as error:
            tally.leave_out(error.reason, f"{row.place}: {error}")


def image_sample(row: AnnotationRow, images: ImageStore, job: Job) -> BuiltSample:
    """An image, with its caption if it is to have one.

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
    picture = picture_of(
        images.read(row), row.box, short_side=cleaning.short_side, min_side=cleaning.min_side or 1
    )
    fields |= {"width": picture.width, "height": picture.height}
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
    return BuiltSample(
        place=row.place,
        files=[(picture.suffix, picture.data), ("json", text)],
        content=hash_of(picture.data + str(fields.get("caption", "")).encode()),
        image=hash_of(row.identity.encode(errors="surrogateescape")),
        looks=picture.looks,
        licence=row.licence,
    )


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

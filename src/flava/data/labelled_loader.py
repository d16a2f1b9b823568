"""Batches of labelled rows: shuffled and endless for training, in order for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from flava.core.batch import (
    AnsweredBatch,
    ImageInputs,
    Inputs,
    LabelledBatch,
    PairInputs,
    ScoredBatch,
    TargetBatch,
    TextInputs,
)
from flava.data.collate import Collated, Collator
from flava.data.decoding import open_image, to_rgb
from flava.data.errors import SampleError, SkippedSample
from flava.data.fast_decoding import decode_uint8
from flava.data.labelled import LabelledRow, LabelledRows
from flava.data.samples import skip_sample
from flava.data.skips import SkipCounter
from flava.data.streaming import batches_from_memory
from flava.data.tokenizers import ClipTokenizer, Tokenizer, pad
from flava.data.transforms import cropped, normalise, resize_for_encoder
from flava.data.workers import SourceBatches

Decoded = TypeVar("Decoded")

WHOLE = (1.0, 1.0)
"""A crop scale that leaves images whole; `random_crop` would cut them to its aspect ratios."""


Pixels = UInt8[np.ndarray, "size size 3"]


class RowReader(ABC, Generic[Decoded]):
    """Reads one kind of input: images, texts, or pairs."""

    @abstractmethod
    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> Decoded:
        """A row decoded, and augmented if ``rng`` is given; raises SampleError if it cannot be."""

    @abstractmethod
    def batch(self, read: Sequence[Decoded], /) -> Inputs:
        """Many decoded rows as the input of a model."""


def row_image(row: LabelledRow, *, upright: bool = True) -> Image.Image:
    """The row's image in RGB, ``upright`` as its EXIF says, or as it is stored.

    Raises:
        SampleError: the file cannot be read or decoded.
    """
    return to_rgb(open_image(_row_file(row)), upright=upright)


def _row_file(row: LabelledRow) -> bytes:
    """Raises SampleError: the row's image cannot be read."""
    assert row.image is not None
    try:
        return row.image.read_bytes() if isinstance(row.image, Path) else row.image
    except OSError as error:
        raise SampleError("image cannot be read", f"{row.image}: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class ImageReader(RowReader[Pixels]):
    """Reads whole images, and in training a random crop of each."""

    size: int
    """Pixels a side that the image encoder reads."""
    crop_scale: tuple[float, float]
    """Share of the image's area in a crop; with (1, 1) images stay whole, whatever their shape."""
    upright: bool = True
    """Whether images are turned as their EXIF says. The paper's tasks have them as they are stored:
    torchvision's readers, and those of the published code, do not turn them."""

    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> Pixels:
        image = decode_uint8(_row_file(row), upright=self.upright)
        if rng is not None and self.crop_scale != WHOLE:
            image = cropped(rng, image, self.crop_scale)
        return resize_for_encoder(image, self.size)

    def batch(self, read: Sequence[Pixels], /) -> ImageInputs:
        return ImageInputs(pixels=normalise(np.stack(read)))


@dataclass(frozen=True, kw_only=True)
class TextReader(RowReader[list[int]]):
    """Reads token ids, cut to ``max_length``; two texts are joined by the tokeniser."""

    tokenizer: Tokenizer | ClipTokenizer
    max_length: int

    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> list[int]:  # noqa: ARG002
        assert row.text is not None
        if row.second is not None:
            return self.tokenizer.encode_pair(row.text, row.second, self.max_length)
        return self.tokenizer.encode(row.text, self.max_length)

    def batch(self, read: Sequence[list[int]], /) -> TextInputs:
        input_ids, attention_mask = pad(read, self.tokenizer.pad)
        return TextInputs(
            input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask)
        )


@dataclass(frozen=True, kw_only=True)
class PairReader(RowReader[tuple[Pixels, list[int]]]):
    """Reads pairs of an image and a text."""

    image: ImageReader
    text: TextReader

    def read(self, row: LabelledRow, rng: np.random.Generator | None) -> tuple[Pixels, list[int]]:
        return self.image.read(row, rng), self.text.read(row, rng)

    def batch(self, read: Sequence[tuple[Pixels, list[int]]], /) -> PairInputs:
        images, texts = zip(*read, strict=True)
        return PairInputs(image=self.image.batch(images), text=self.text.batch(texts))


Target = int | float | Mapping[int, float]
"""A class's number; a score; or, for some classes, the share of people who gave it as an answer."""


@dataclass(frozen=True)
class LabelledExample(Generic[Decoded]):
    """A decoded row with its target."""

    key: str
    read: Decoded
    target: Target


@dataclass(frozen=True, kw_only=True)
class LabelledCollator(Collator[LabelledRow, LabelledExample[Decoded]], Generic[Decoded]):
    """Makes batches of rows for training; all rows of a batch have targets of one kind."""

    reader: RowReader[Decoded]
    classes: tuple[str, ...]
    """The classes in the order of the model's outputs; none where scores are predicted."""

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each class."""
        return {name: index for index, name in enumerate(self.classes)}

    def decode(self, raw: LabelledRow, rng: np.random.Generator, /) -> LabelledExample[Decoded]:
        return LabelledExample(raw.key, self.reader.read(raw, rng), self.target(raw))

    def target(self, row: LabelledRow) -> Target:
        """The row's target; answers that are not among the classes are passed over."""
        if row.answers is not None:
            return {self.numbers[a]: s for a, s in row.answers.items() if a in self.numbers}
        if row.score is not None:
            return row.score
        assert row.label is not None
        return self.numbers[row.label]

    def collate(
        self, examples: Sequence[LabelledExample[Decoded]], _rng: np.random.Generator, /
    ) -> TargetBatch:
        keys = tuple(example.key for example in examples)
        inputs = self.reader.batch([example.read for example in examples])
        targets = [example.target for example in examples]
        match targets[0]:
            case int():
                return LabelledBatch(keys=keys, inputs=inputs, labels=torch.tensor(targets))
            case float():
                return ScoredBatch(keys=keys, inputs=inputs, scores=torch.tensor(targets))
        answers = torch.zeros(len(targets), len(self.classes))
        for row, target in zip(answers, targets, strict=True):
            assert isinstance(target, Mapping)
            for number, share in target.items():
                row[number] = share
        return AnsweredBatch(keys=keys, inputs=inputs, answers=answers)


class LabelledLoader(Iterator[TargetBatch], AbstractContextManager["LabelledLoader"]):
    """An endless iterator over batches: each epoch is a permutation of the rows.

    Batch number n is a pure function of ``seed`` and n, so a loader that starts at ``first`` yields
    what an uninterrupted one yields from there on. ``skips`` counts the rows that could not be
    decoded; the rows that follow take their slots.

    Raises:
        ValueError: while iterating, most rows cannot be decoded.
    """

    def __init__(
        self,
        rows: LabelledRows,
        collator: LabelledCollator,
        *,
        batch_size: int,
        seed: int,
        first: int = 0,
        workers: int = 0,
    ) -> None:
        self.skips = SkipCounter("data", "the training data", "correct the data")
        self._batches: Iterator[Collated] | None = SourceBatches(
            raw_batches=partial(batches_from_memory, rows.rows, batch_size=batch_size, seed=seed),
            collator=collator,
            seed=seed,
            first=first,
        ).start(workers)

    def __next__(self) -> TargetBatch:
        if self._batches is None:
            raise StopIteration
        batch = self.skips.batch_of(next(self._batches))
        assert isinstance(batch, TargetBatch)
        return batch

    def close(self) -> None:
        """Ends the worker process; the loader yields nothing afterwards."""
        self._batches = None

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows as a model's input, which is None if no row could be decoded."""

    rows: tuple[LabelledRow, ...]
    inputs: Inputs | None
    skipped: tuple[SkippedSample, ...]


def read_in_order(
    rows: Sequence[LabelledRow], reader: RowReader[Decoded], batch_size: int
) -> Iterator[RowBatch]:
    """Every row once, with nothing drawn at random."""
    for start in range(0, len(rows), batch_size):
        kept: list[LabelledRow] = []
        read: list[Decoded] = []
        skipped: list[SkippedSample] = []
        for row in rows[start : start + batch_size]:
            try:
                read.append(reader.read(row, None))
            except SampleError as error:
                skipped.append(skip_sample(row, error))
            else:
                kept.append(row)
        inputs = reader.batch(read) if read else None
        yield RowBatch(tuple(kept), inputs, tuple(skipped))

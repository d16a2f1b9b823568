"""Raw samples to frozen batches: one class for each kind of batch, run inside the workers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image

from flava.core.batch import (
    Batch,
    CodedImageBatch,
    ImageBatch,
    ImageInputs,
    PairBatch,
    PairInputs,
    TextBatch,
    TextInputs,
    WholePairBatch,
    map_tensors,
)
from flava.core.randomness import random_generator
from flava.data.errors import SampleError, SkippedSample
from flava.data.fast_decoding import Uint8Image, levels_of
from flava.data.full_sentences import Packed
from flava.data.masking import TokenMasker, blockwise_mask, exchange_texts
from flava.data.samples import caption_of, codes_of, skip_sample
from flava.data.shards import RawSample
from flava.data.streaming import Content, StreamPositions, Window
from flava.data.tokenizers import ClipTokenizer, Tokenizer, pad
from flava.data.transforms import (
    ImageTransformConfig,
    cropped,
    flip_at_random,
    for_codebook,
    jitter_colours,
    normalise,
    resize,
    resize_for_encoder,
)

PATIENCE = 1000
"""Spares that are tried for the corrupt places of one window, beyond its own size."""

Example = TypeVar("Example")


class Collator(ABC, Generic[Content, Example]):
    """How one kind of batch is made."""

    @abstractmethod
    def decode(self, raw: Content, rng: np.random.Generator, /) -> Example:
        """One sample decoded, augmented and masked; SampleError if it cannot be used."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], rng: np.random.Generator, /) -> Batch:
        """Many of them as a batch."""


@dataclass(frozen=True)
class Collated:
    """A batch with the report on what was left out of it; no batch if too much was."""

    batch: Batch | None
    tried: int
    skipped: tuple[SkippedSample, ...]
    marks: StreamPositions = field(default_factory=dict)

    def pin_memory(self) -> "Collated":
        """What a `DataLoader` calls, where there is a GPU."""
        if self.batch is None:
            return self
        return replace(self, batch=map_tensors(self.batch, torch.Tensor.pin_memory))


@dataclass(frozen=True)
class Builder(Generic[Content, Example]):
    """Windows to batches, or to one rank's part of them."""

    collator: Collator[Content, Example]
    seed: int
    rank: int = 0

    def __call__(self, window: Window[Content]) -> Collated:
        """The window's batch, full: a spare takes the place of each corrupt sample."""
        examples, skipped = [], []
        for item in window.items:
            decoded = self._decode(item.epoch, item.content)
            (skipped if isinstance(decoded, SkippedSample) else examples).append(decoded)
        for tried, item in enumerate(window.spares if skipped else ()):
            if len(examples) == len(window.items) or tried == PATIENCE + len(window.items):
                break
            decoded = self._decode(item.epoch, item.content)
            if not isinstance(decoded, SkippedSample):  # else it is reported in its own turn
                examples.append(decoded)
        full = len(examples) == len(window.items)
        # What is drawn for a batch as a whole differs between ranks, and is not new for the first.
        rng = random_generator(
            self.seed, window.number, f"batch {self.rank}" if self.rank else "batch"
        )
        batch = self.collator.collate(examples, rng) if full else None
        return Collated(batch, len(window.items), tuple(skipped), window.marks)

    def _decode(self, epoch: int, content: Content | SkippedSample) -> Example | SkippedSample:
        if isinstance(content, SkippedSample):
            return content
        rng = random_generator(self.seed, epoch, f"{content.shard}/{content.key}")
        try:
            return self.collator.decode(content, rng)
        except SampleError as error:
            return skip_sample(content, error)


@dataclass(frozen=True)
class ImageExample:
    key: str
    pixels: UInt8[np.ndarray, "size size 3"]
    codebook_pixels: UInt8[np.ndarray, "codebook codebook 3"]
    patch_mask: Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class TextExample:
    key: str
    input_ids: list[int]
    draws: Float[np.ndarray, "3 length"]


def augmented(raw: RawSample, config: ImageTransformConfig, rng: np.random.Generator) -> Uint8Image:
    """A random crop, its colours and its direction drawn too where the config says so."""
    levels = levels_of(raw, config.reduction)
    if config.colour_jitter or config.flip_probability:
        image = jitter_colours(rng, Image.fromarray(levels), config.colour_jitter)
        levels = np.array(flip_at_random(rng, image, config.flip_probability))
    return cropped(rng, levels, config.crop_scale)


@dataclass(frozen=True)
class ImageCollator(Collator[RawSample, ImageExample]):
    """Two views of one random crop, the encoder's and the codebook's, and a blockwise mask."""

    config: ImageTransformConfig
    mask_fraction: float

    def decode(self, raw: RawSample, rng: np.random.Generator) -> ImageExample:
        pixels, codebook_pixels = resize(augmented(raw, self.config, rng), self.config)
        grid = self.config.grid
        patch_mask = blockwise_mask(rng, grid, grid, self.mask_fraction)
        return ImageExample(raw.key, pixels, codebook_pixels, patch_mask)

    def collate(self, examples: Sequence[ImageExample], _rng: np.random.Generator) -> ImageBatch:
        return ImageBatch(
            keys=tuple(example.key for example in examples),
            pixels=normalise(np.stack([example.pixels for example in examples])),
            codebook_pixels=for_codebook(np.stack([e.codebook_pixels for e in examples])),
            patch_mask=torch.from_numpy(np.stack([example.patch_mask for example in examples])),
        )


@dataclass(frozen=True)
class CodedExample:
    key: str
    pixels: UInt8[np.ndarray, "size size 3"]
    codes: Integer[np.ndarray, "rows columns"]
    patch_mask: Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class CodedImageCollator(Collator[RawSample, CodedExample]):
    """The encoder's view of whole images, with the codes that are stored of them, and a mask."""

    config: ImageTransformConfig
    mask_fraction: float

    def decode(self, raw: RawSample, rng: np.random.Generator) -> CodedExample:
        assert self.config.stored_codes is not None
        codes = codes_of(raw, self.config.stored_codes, self.config.grid)
        levels = levels_of(raw, self.config.reduction)
        pixels = resize_for_encoder(levels, self.config.image_size)
        patch_mask = blockwise_mask(rng, self.config.grid, self.config.grid, self.mask_fraction)
        return CodedExample(raw.key, pixels, codes, patch_mask)

    def collate(
        self, examples: Sequence[CodedExample], _rng: np.random.Generator
    ) -> CodedImageBatch:
        return CodedImageBatch(
            keys=tuple(example.key for example in examples),
            pixels=normalise(np.stack([example.pixels for example in examples])),
            codes=torch.from_numpy(np.stack([e.codes for e in examples]).astype(np.int64)),
            patch_mask=torch.from_numpy(np.stack([example.patch_mask for example in examples])),
        )


@dataclass(frozen=True)
class TextCollator(Collator[RawSample, TextExample]):
    """Token ids padded to the longest, with some of them masked."""

    tokenizer: Tokenizer
    max_length: int
    masker: TokenMasker
    text_of: Callable[[RawSample, np.random.Generator], str]

    def decode(self, raw: RawSample, rng: np.random.Generator) -> TextExample:
        input_ids = self.tokenizer.encode(self.text_of(raw, rng), self.max_length)
        return TextExample(raw.key, input_ids, self.masker.draws(rng, len(input_ids)))

    def collate(self, examples: Sequence[TextExample], _rng: np.random.Generator) -> TextBatch:
        return text_batch(examples, self.tokenizer.pad, self.masker)


@dataclass(frozen=True)
class PackedCollator(Collator[Packed, TextExample]):
    """Sequences that are packed already, with some of their tokens masked."""

    padding: int
    masker: TokenMasker

    def decode(self, packed: Packed, rng: np.random.Generator) -> TextExample:
        input_ids = packed.ids.tolist()
        return TextExample(packed.key, input_ids, self.masker.draws(rng, len(input_ids)))

    def collate(self, examples: Sequence[TextExample], _rng: np.random.Generator) -> TextBatch:
        return text_batch(examples, self.padding, self.masker)


def text_batch(examples: Sequence[TextExample], padding: int, masker: TokenMasker) -> TextBatch:
    """Texts padded to the longest of them, and masked by their own draws."""
    input_ids, attention_mask = pad([example.input_ids for example in examples], padding)
    draws = np.zeros((3, *input_ids.shape))
    draws[:, attention_mask] = np.concatenate([example.draws for example in examples], axis=1)
    input_ids_masked, token_mask = masker.mask(input_ids, attention_mask, draws)
    return TextBatch(
        keys=tuple(example.key for example in examples),
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        input_ids_masked=torch.from_numpy(input_ids_masked),
        token_mask=torch.from_numpy(token_mask),
    )


@dataclass(frozen=True)
class PairCollator(Collator[RawSample, tuple[Any, TextExample]]):
    """An image and its text each, some texts exchanged for image-text matching."""

    images: ImageCollator | CodedImageCollator
    texts: TextCollator
    mismatch_probability: float

    def decode(self, raw: RawSample, rng: np.random.Generator) -> tuple[Any, TextExample]:
        return self.images.decode(raw, rng), self.texts.decode(raw, rng)

    def collate(
        self, examples: Sequence[tuple[Any, TextExample]], rng: np.random.Generator
    ) -> PairBatch:
        images, texts = zip(*examples, strict=True)
        exchange = exchange_texts(
            rng, [text.input_ids for text in texts], self.mismatch_probability
        )
        return PairBatch(
            image=self.images.collate(images, rng),
            text=self.texts.collate([texts[i] for i in exchange.order], rng),
            matched=torch.from_numpy(exchange.matched),
        )


@dataclass(frozen=True)
class WholePairExample:
    key: str
    pixels: UInt8[np.ndarray, "size size 3"]
    input_ids: list[int]


@dataclass(frozen=True)
class WholePairCollator(Collator[RawSample, WholePairExample]):
    """One random crop for the encoder, and its text; nothing is hidden or exchanged."""

    config: ImageTransformConfig
    tokenizer: Tokenizer | ClipTokenizer
    max_length: int

    def decode(self, raw: RawSample, rng: np.random.Generator) -> WholePairExample:
        pixels = resize_for_encoder(augmented(raw, self.config, rng), self.config.image_size)
        input_ids = self.tokenizer.encode(caption_of(raw, rng), self.max_length)
        return WholePairExample(raw.key, pixels, input_ids)

    def collate(
        self, examples: Sequence[WholePairExample], _rng: np.random.Generator
    ) -> WholePairBatch:
        input_ids, attention_mask = pad(
            [example.input_ids for example in examples], self.tokenizer.pad
        )
        return WholePairBatch(
            keys=tuple(example.key for example in examples),
            inputs=PairInputs(
                image=ImageInputs(pixels=normalise(np.stack([e.pixels for e in examples]))),
                text=TextInputs(
                    input_ids=torch.from_numpy(input_ids),
                    attention_mask=torch.from_numpy(attention_mask),
                ),
            ),
        )

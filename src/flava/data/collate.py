"""Decodes raw samples and puts them together into batches: a collator for each kind of batch.

``BatchBuilder`` is what the workers call; `flava.data` explains how a batch is made.
"""

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
from flava.data.fast_decoding import Uint8Image, decode_sample
from flava.data.full_sentences import Packed
from flava.data.masking import TokenMasker, blockwise_mask, exchange_texts
from flava.data.samples import caption_of, codes_of, skip_sample
from flava.data.shards import RawSample
from flava.data.streaming import Content, RawBatch, StreamPositions
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

MAX_SPARES = 1000
"""Spares that are tried for the corrupt samples of one batch, beyond the size of the batch."""

Example = TypeVar("Example")


class Collator(ABC, Generic[Content, Example]):
    """Makes one kind of batch from raw samples."""

    @abstractmethod
    def decode(self, raw: Content, rng: np.random.Generator, /) -> Example:
        """One sample decoded, augmented and masked; raises SampleError if it cannot be used."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], rng: np.random.Generator, /) -> Batch:
        """Decoded samples as a batch; ``rng`` is for what is drawn for the batch as a whole."""


@dataclass(frozen=True)
class Collated:
    """A batch, and reports on the samples that were left out; no batch if these were too many."""

    batch: Batch | None
    tried: int
    skipped: tuple[SkippedSample, ...]
    positions: StreamPositions = field(default_factory=dict)
    """Where the streams stood that the samples were read from."""

    def pin_memory(self) -> "Collated":
        """The same in pinned memory; a `DataLoader` calls it where there is a GPU."""
        if self.batch is None:
            return self
        return replace(self, batch=map_tensors(self.batch, torch.Tensor.pin_memory))


@dataclass(frozen=True)
class BatchBuilder(Generic[Content, Example]):
    """Makes a rank's part of a batch from the raw samples of its slots."""

    collator: Collator[Content, Example]
    seed: int
    rank: int = 0

    def __call__(self, raw_batch: RawBatch[Content]) -> Collated:
        """The batch, always full: a spare takes the slot of each sample that cannot be used."""
        examples, skipped = [], []
        size = len(raw_batch.items)
        for item in raw_batch.items:
            decoded = self._decode(item.epoch, item.content)
            (skipped if isinstance(decoded, SkippedSample) else examples).append(decoded)
        for tried, item in enumerate(raw_batch.spares if skipped else ()):
            if len(examples) == size or tried == MAX_SPARES + size:
                break
            decoded = self._decode(item.epoch, item.content)
            if not isinstance(decoded, SkippedSample):  # if it is one, its own batch reports it
                examples.append(decoded)
        full = len(examples) == size
        # What is drawn for the batch as a whole differs between ranks; rank 0 draws as one alone.
        rng = random_generator(
            self.seed, raw_batch.number, f"batch {self.rank}" if self.rank else "batch"
        )
        batch = self.collator.collate(examples, rng) if full else None
        return Collated(batch, size, tuple(skipped), raw_batch.positions)

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
    """A decoded image, as the encoder and the codebook see it, and the patches to hide."""

    key: str
    pixels: UInt8[np.ndarray, "size size 3"]
    codebook_pixels: UInt8[np.ndarray, "codebook codebook 3"]
    patch_mask: Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True)
class TextExample:
    """A tokenised text, and the random numbers that mask it."""

    key: str
    input_ids: list[int]
    draws: Float[np.ndarray, "3 length"]


def _augmented(
    raw: RawSample, config: ImageTransformConfig, rng: np.random.Generator
) -> Uint8Image:
    """The sample's image, jittered and flipped if the config says so, and cropped at random."""
    image = decode_sample(raw, config.reduction)
    if config.colour_jitter or config.flip_probability:
        jittered = jitter_colours(rng, Image.fromarray(image), config.colour_jitter)
        image = np.array(flip_at_random(rng, jittered, config.flip_probability))
    return cropped(rng, image, config.crop_scale)


@dataclass(frozen=True)
class ImageCollator(Collator[RawSample, ImageExample]):
    """Two views of one random crop, the encoder's and the codebook's, and a blockwise mask."""

    config: ImageTransformConfig
    mask_fraction: float

    def decode(self, raw: RawSample, rng: np.random.Generator) -> ImageExample:
        pixels, codebook_pixels = resize(_augmented(raw, self.config, rng), self.config)
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
    """A decoded image with the codes that are stored of it, and the patches to hide."""

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
        image = decode_sample(raw, self.config.reduction)
        pixels = resize_for_encoder(image, self.config.image_size)
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
        return _text_batch(examples, self.tokenizer.pad, self.masker)


@dataclass(frozen=True)
class PackedCollator(Collator[Packed, TextExample]):
    """Sequences packed from sentences, with some of their tokens masked."""

    padding: int
    masker: TokenMasker

    def decode(self, packed: Packed, rng: np.random.Generator) -> TextExample:
        input_ids = packed.ids.tolist()
        return TextExample(packed.key, input_ids, self.masker.draws(rng, len(input_ids)))

    def collate(self, examples: Sequence[TextExample], _rng: np.random.Generator) -> TextBatch:
        return _text_batch(examples, self.padding, self.masker)


def _text_batch(examples: Sequence[TextExample], padding: int, masker: TokenMasker) -> TextBatch:
    """Texts padded to the longest of them, each masked by its own random numbers."""
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
    """Pairs of an image and a text, some of whose texts are exchanged for image-text matching."""

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
    """A decoded image and its tokenised text, nothing of which is hidden."""

    key: str
    pixels: UInt8[np.ndarray, "size size 3"]
    input_ids: list[int]


@dataclass(frozen=True)
class WholePairCollator(Collator[RawSample, WholePairExample]):
    """Pairs of a random crop and a text, nothing of which is hidden or exchanged."""

    config: ImageTransformConfig
    tokenizer: Tokenizer | ClipTokenizer
    max_length: int

    def decode(self, raw: RawSample, rng: np.random.Generator) -> WholePairExample:
        pixels = resize_for_encoder(_augmented(raw, self.config, rng), self.config.image_size)
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

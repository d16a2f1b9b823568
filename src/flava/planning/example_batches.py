"""Batches as a run would read them, without reading: of the right shapes and masks, no pixels."""

import numpy as np
import torch
from torch import Tensor

from flava.core.batch import (
    Batch,
    CodedImageBatch,
    CropBatch,
    ImageBatch,
    ImageInputs,
    PairBatch,
    PairInputs,
    TextBatch,
    TextInputs,
    WholePairBatch,
)
from flava.data.masking import blockwise_mask
from flava.data.multi_crop import GLOBAL_CROPS
from flava.planning.costs import Outline
from flava.training.run import Run

CAPTION_WORDS = 12
"""The mean of PMD's captions (Singh et al. 2022, table 1: 12.1)."""
TOKENS_PER_WORD = 1.3
"""Of BERT's uncased vocabulary in captions, roughly."""


def imagined_batch(run: Run, name: str, size: int) -> Batch:
    """A batch of ``size`` samples of the run's source ``name``."""
    draw = np.random.default_rng(run.seed)
    match name:
        case "pairs" if not run.data.mask_pairs:
            input_ids, attention_mask = tokens(caption_lengths(size, run.data.pair_max_length))
            side = run.data.image.image_size
            inputs = PairInputs(
                image=ImageInputs(pixels=Outline.of(size, 3, side, side)),
                text=TextInputs(input_ids=input_ids, attention_mask=attention_mask),
            )
            return WholePairBatch(keys=unnamed(size), inputs=inputs)
        case "pairs":
            return PairBatch(
                image=images(run, size, draw),
                text=texts(run, caption_lengths(size, run.data.pair_max_length), draw),
                matched=torch.from_numpy(draw.random(size) >= run.data.mismatch_probability),
            )
        case "images" if run.data.crops is not None:
            crops = run.data.crops
            return CropBatch(
                keys=unnamed(size),
                global_crops=Outline.of(GLOBAL_CROPS, size, 3, *2 * (crops.global_size,)),
                local_crops=Outline.of(crops.local_crops, size, 3, *2 * (crops.local_size,)),
            )
        case "images":
            return images(run, size, draw)
    return texts(run, text_lengths(run, size), draw)


def images(run: Run, size: int, draw: np.random.Generator) -> ImageBatch | CodedImageBatch:
    """With masks as the data draws them."""
    config, grid = run.data.image, run.data.image.grid
    fraction = run.data.patch_mask_fraction
    masks = np.stack([blockwise_mask(draw, grid, grid, fraction) for _ in range(size)])
    patch_mask = torch.from_numpy(masks)
    pixels = Outline.of(size, 3, config.image_size, config.image_size)
    if config.stored_codes is not None:
        codes = torch.zeros(size, grid, grid, dtype=torch.int64)
        return CodedImageBatch(
            keys=unnamed(size), pixels=pixels, codes=codes, patch_mask=patch_mask
        )
    seen = Outline.of(size, 3, config.codebook_size, config.codebook_size)
    return ImageBatch(
        keys=unnamed(size), pixels=pixels, codebook_pixels=seen, patch_mask=patch_mask
    )


def texts(run: Run, lengths: list[int], draw: np.random.Generator) -> TextBatch:
    """Texts of these lengths, each of their tokens hidden alike but for [CLS] and [SEP]."""
    input_ids, attention_mask = tokens(lengths)
    places = torch.arange(input_ids.shape[1])
    inside = (places > 0) & (places < torch.tensor(lengths)[:, None] - 1)
    drawn = torch.from_numpy(draw.random(input_ids.shape) < run.data.mask_probability)
    return TextBatch(
        keys=unnamed(len(lengths)),
        input_ids=input_ids,
        attention_mask=attention_mask,
        input_ids_masked=input_ids,
        token_mask=inside & drawn,
    )


def tokens(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Ids, and where there are any: padded to the longest."""
    attention_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.zeros(attention_mask.shape, dtype=torch.int64), attention_mask


def caption_lengths(size: int, longest: int) -> list[int]:
    """In tokens: all of the mean length but for one, which fills what there is room for."""
    mean = min(longest, 2 + round(CAPTION_WORDS * TOKENS_PER_WORD))
    return [longest, *[mean] * (size - 1)]


def text_lengths(run: Run, size: int) -> list[int]:
    """In tokens: pairs are read for their captions, texts alone are as long as they may be."""
    longest = run.data.text_max_length
    if any(shard.endswith(".tar") for shard in run.data.sources["text"].shards):
        return caption_lengths(size, longest)
    return [longest] * size


def unnamed(size: int) -> tuple[str, ...]:
    return ("",) * size

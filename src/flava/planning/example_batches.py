"""Batches with the shapes and masks of a run's real batches, made without reading any data.

Their images are fake tensors: only their shapes are known.
"""

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
from flava.planning.costs import fake_floats
from flava.training.run import Run

CAPTION_WORDS = 12
"""Mean number of words of PMD's captions (Singh et al. 2022, table 1: 12.1)."""
TOKENS_PER_WORD = 1.3
"""Tokens of BERT's uncased vocabulary per word of a caption, roughly (our estimate)."""


def example_batch(run: Run, name: str, size: int) -> Batch:
    """A batch of ``size`` samples of the run's source ``name``."""
    rng = np.random.default_rng(run.seed)
    match name:
        case "pairs" if not run.data.mask_pairs:
            input_ids, attention_mask = _padded_tokens(
                _caption_lengths(size, run.data.pair_max_length)
            )
            side = run.data.image.image_size
            inputs = PairInputs(
                image=ImageInputs(pixels=fake_floats(size, 3, side, side)),
                text=TextInputs(input_ids=input_ids, attention_mask=attention_mask),
            )
            return WholePairBatch(keys=_no_keys(size), inputs=inputs)
        case "pairs":
            return PairBatch(
                image=_image_batch(run, size, rng),
                text=_text_batch(run, _caption_lengths(size, run.data.pair_max_length), rng),
                matched=torch.from_numpy(rng.random(size) >= run.data.mismatch_probability),
            )
        case "images" if run.data.crops is not None:
            crops = run.data.crops
            return CropBatch(
                keys=_no_keys(size),
                global_crops=fake_floats(GLOBAL_CROPS, size, 3, *2 * (crops.global_size,)),
                local_crops=fake_floats(crops.local_crops, size, 3, *2 * (crops.local_size,)),
            )
        case "images":
            return _image_batch(run, size, rng)
    return _text_batch(run, _text_lengths(run, size), rng)


def _image_batch(run: Run, size: int, rng: np.random.Generator) -> ImageBatch | CodedImageBatch:
    """Images with patch masks drawn as in training."""
    config, grid = run.data.image, run.data.image.grid
    fraction = run.data.patch_mask_fraction
    masks = np.stack([blockwise_mask(rng, grid, grid, fraction) for _ in range(size)])
    patch_mask = torch.from_numpy(masks)
    pixels = fake_floats(size, 3, config.image_size, config.image_size)
    if config.stored_codes is not None:
        codes = torch.zeros(size, grid, grid, dtype=torch.int64)
        return CodedImageBatch(
            keys=_no_keys(size), pixels=pixels, codes=codes, patch_mask=patch_mask
        )
    codebook_pixels = fake_floats(size, 3, config.codebook_size, config.codebook_size)
    return ImageBatch(
        keys=_no_keys(size), pixels=pixels, codebook_pixels=codebook_pixels, patch_mask=patch_mask
    )


def _text_batch(run: Run, lengths: list[int], rng: np.random.Generator) -> TextBatch:
    """Texts of these lengths, whose tokens but [CLS] and [SEP] are masked independently."""
    input_ids, attention_mask = _padded_tokens(lengths)
    positions = torch.arange(input_ids.shape[1])
    inside = (positions > 0) & (positions < torch.tensor(lengths)[:, None] - 1)
    drawn = torch.from_numpy(rng.random(input_ids.shape) < run.data.mask_probability)
    return TextBatch(
        keys=_no_keys(len(lengths)),
        input_ids=input_ids,
        attention_mask=attention_mask,
        input_ids_masked=input_ids,
        token_mask=inside & drawn,
    )


def _padded_tokens(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Token ids (zeros) and the attention mask of texts of these lengths, padded to the longest."""
    attention_mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.zeros(attention_mask.shape, dtype=torch.int64), attention_mask


def _caption_lengths(size: int, longest: int) -> list[int]:
    """Lengths of captions in tokens: one is as long as allowed, the others have the mean length."""
    mean = min(longest, 2 + round(CAPTION_WORDS * TOKENS_PER_WORD))
    return [longest, *[mean] * (size - 1)]


def _text_lengths(run: Run, size: int) -> list[int]:
    """Lengths of texts in tokens: of captions if the source holds pairs, else the maximum."""
    longest = run.data.text_max_length
    if any(shard.endswith(".tar") for shard in run.data.sources["text"].shards):
        return _caption_lengths(size, longest)
    return [longest] * size


def _no_keys(size: int) -> tuple[str, ...]:
    return ("",) * size

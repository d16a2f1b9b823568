"""The inputs of all contenders: random images, real texts, and masks as in pretraining."""

import gzip
import json
from functools import cache

import numpy as np
import torch
from torch import Tensor

from flava.core.batch import CodedImageBatch, ImageBatch, PairBatch, TextBatch, map_pixels
from flava.data.collate import TextExample, _text_batch
from flava.data.masking import TokenMasker, blockwise_mask
from flava.data.paths import CORPUS
from flava.data.tokenizers import Tokenizer
from flava.models import FlavaConfig

SHORTEST, TOKENS_A_WORD = 5, 1.3
"""Texts of WordNet are taken as captions if they have at least so many words, and at most so many
tokens a word. They have 12 words on average, as PMD's captions (section 4 of the paper), and 15.6
tokens with [CLS] and [SEP]."""
PADDED = 77
"""Number of tokens to which the published processors pad the caption of a pair."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer()


@cache
def captions() -> tuple[str, ...]:
    """Real texts as long as captions, in random order."""
    with gzip.open(CORPUS / "text" / "wordnet-train.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    order = np.random.default_rng(0).permutation(len(texts))
    return tuple(texts[i] for i in order if like_a_caption(texts[i]))


def like_a_caption(text: str) -> bool:
    words = len(text.split())
    return words >= SHORTEST and len(tokenizer().encode(text, 512)) - 2 <= TOKENS_A_WORD * words


def texts(batch: int, *, words: int | None = None) -> TextBatch:
    """Captions of natural length; or, with ``words``, texts of that many words."""
    found = captions()[:batch] if words is None else [long_text(words, i) for i in range(batch)]
    return masked_texts([tokenizer().encode(text, 512) for text in found])


def long_text(words: int, start: int) -> str:
    """So many words from consecutive captions, beginning with caption 100 * ``start``."""
    joined = " ".join(captions()[100 * start : 100 * start + words]).split()
    return " ".join(joined[:words])


def exact_texts(batch: int, tokens: int) -> TextBatch:
    """Texts of exactly so many tokens, including [CLS] and [SEP]."""
    input_ids = [tokenizer().encode(long_text(tokens, i), tokens) for i in range(batch)]
    assert {len(each) for each in input_ids} == {tokens}
    return masked_texts(input_ids)


def masker() -> TokenMasker:
    return TokenMasker.of(tokenizer(), 0.15, whole_words=False)


def masked_texts(input_ids: list[list[int]]) -> TextBatch:
    rng, draws = np.random.default_rng(1), masker().draws
    examples = [TextExample(str(i), row, draws(rng, len(row))) for i, row in enumerate(input_ids)]
    return _text_batch(examples, tokenizer().pad, masker())


def padded(batch: TextBatch, length: int) -> TextBatch:
    """The same texts padded to ``length``, as the published processors do."""
    more = (0, length - batch.input_ids.shape[1])
    pad = torch.nn.functional.pad
    return TextBatch(
        keys=batch.keys,
        input_ids=pad(batch.input_ids, more, value=tokenizer().pad),
        attention_mask=pad(batch.attention_mask, more),
        input_ids_masked=pad(batch.input_ids_masked, more, value=tokenizer().pad),
        token_mask=pad(batch.token_mask, more),
    )


def images(config: FlavaConfig, batch: int) -> ImageBatch:
    grid, rng = config.image.grid, np.random.default_rng(2)
    masks = [blockwise_mask(rng, grid, grid) for _ in range(batch)]
    return ImageBatch(
        keys=tuple(map(str, range(batch))),
        pixels=torch.randn(batch, 3, config.image.image_size, config.image.image_size),
        codebook_pixels=map_pixels(torch.rand(batch, 3, 8 * grid, 8 * grid)),
        patch_mask=torch.from_numpy(np.stack(masks)),
    )


def pairs(config: FlavaConfig, batch: int) -> PairBatch:
    """Pairs of which one in eight does not match."""
    matched = torch.arange(batch) % 8 != 1
    return PairBatch(image=images(config, batch), text=texts(batch), matched=matched)


def coded(batch: ImageBatch, codes: Tensor) -> CodedImageBatch:
    """The same images with precomputed codes of shape (batch, rows, columns)."""
    return CodedImageBatch(
        keys=batch.keys, pixels=batch.pixels, codes=codes, patch_mask=batch.patch_mask
    )

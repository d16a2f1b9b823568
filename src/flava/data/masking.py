"""Masks of patches (BEiT's blocks) and of tokens (BERT's), and mismatched texts.

Masks are drawn from a sample's own generator: they do not depend on the worker or the batch that
the sample lands in, and are new in each epoch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from flava.data.tokenizers import Tokenizer

MIN_BLOCK_FRACTION = 16 / 196
"""Smallest area of a block, as a share of the grid: BEiT's 16 of 14x14 patches."""
MIN_ASPECT = 0.3
"""Blocks are at most 1 / 0.3 times as high as wide, or as wide as high (BEiT)."""
BLOCK_TRIES = 10
"""Tries to place a block before the mask is left as it is (BEiT)."""
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Shares of the selected tokens that become [MASK] and a random token; the rest stays (BERT)."""


def blockwise_mask(
    rng: np.random.Generator, rows: int, columns: int, fraction: float = 75 / 196
) -> Bool[np.ndarray, "rows columns"]:
    """True at the patches to hide: BEiT's algorithm (Bao et al. 2021, algorithm 1 and its code).

    Blocks of random area and aspect ratio are added until ``fraction`` of the grid, rounded down,
    is hidden, or until ten draws in a row fit no block; so fewer may be hidden, and none in a grid
    with a side of one patch, since a block's sides are strictly below the grid's.
    """
    mask = np.zeros((rows, columns), dtype=bool)
    # The margin keeps a product such as 75 / 196 * 196 from falling just below its true value.
    left = math.floor(fraction * rows * columns + 1e-6)
    smallest = max(1.0, MIN_BLOCK_FRACTION * rows * columns)
    while left > 0:
        hidden = _add_block(rng, mask, smallest, left)
        if not hidden:
            break
        left -= hidden
    return mask


def _add_block(
    rng: np.random.Generator, mask: Bool[np.ndarray, "rows columns"], smallest: float, left: int
) -> int:
    """Hides one more block of at most ``left`` new patches; returns how many, 0 if none fits."""
    rows, columns = mask.shape
    draws = rng.random((BLOCK_TRIES, 4)).tolist()
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        # As in BEiT, the range is reversed, not empty, when less is left than the smallest block.
        area = smallest + (left - smallest) * area_draw
        aspect = math.exp(math.log(MIN_ASPECT) * (1 - 2 * aspect_draw))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        y, x = int(top_draw * (rows - height + 1)), int(left_draw * (columns - width + 1))
        block = mask[y : y + height, x : x + width]
        new = block.size - int(np.count_nonzero(block))
        if 0 < new <= left:
            block[:] = True
            return new
    return 0


@dataclass(frozen=True, kw_only=True)
class TokenMasker:
    """BERT's masking of tokens (Devlin et al. 2019, section 3.1), as Hugging Face's collator does.

    Each token, or with ``whole_words`` each word as a whole, is selected on its own with
    ``probability``; special tokens never. Of the selected tokens, each for itself, 80 % become
    [MASK], 10 % a token drawn from the whole vocabulary, 10 % stay. A short text may have none
    selected: it is left so, since forcing one would mask short texts at a higher rate.
    """

    probability: float
    whole_words: bool
    mask_id: int
    special: Bool[np.ndarray, " vocabulary"]
    continues: Bool[np.ndarray, " vocabulary"]

    @classmethod
    def of(cls, tokenizer: Tokenizer, probability: float, *, whole_words: bool) -> "TokenMasker":
        """A masker for the ids of that tokeniser."""
        return cls(
            probability=probability,
            whole_words=whole_words,
            mask_id=tokenizer.mask,
            special=tokenizer.special,
            continues=tokenizer.continues,
        )

    def draws(self, rng: np.random.Generator, length: int) -> Float[np.ndarray, "3 length"]:
        """A text's random numbers; as many as it has tokens, so that padding changes no mask."""
        return rng.random((3, length))

    def mask(
        self,
        input_ids: Int[np.ndarray, "batch length"],
        attention_mask: Bool[np.ndarray, "batch length"],
        draws: Float[np.ndarray, "3 batch length"],
    ) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """The masked ids, and where tokens were selected; ``draws`` are padded as ``input_ids``
        are."""
        choose, replace, token = draws
        if self.whole_words:
            first = np.where(self.continues[input_ids], 0, np.arange(input_ids.shape[1]))
            choose = np.take_along_axis(choose, np.maximum.accumulate(first, axis=1), axis=1)
        token_mask = (choose < self.probability) & attention_mask & ~self.special[input_ids]
        random_ids = (token * len(self.special)).astype(input_ids.dtype)
        masked = np.where(token_mask & (replace < MASK_SHARE), self.mask_id, input_ids)
        is_random = token_mask & (replace >= MASK_SHARE) & (replace < MASK_SHARE + RANDOM_SHARE)
        return np.where(is_random, random_ids, masked), token_mask


@dataclass(frozen=True)
class Exchange:
    """``order[i]`` is the row whose text row i gets; ``matched[i]`` is whether that text equals its
    own."""

    order: Int[np.ndarray, " batch"]
    matched: Bool[np.ndarray, " batch"]


def exchange_texts(
    rng: np.random.Generator, texts: Sequence[object], probability: float
) -> Exchange:
    """Mismatched pairs for image-text matching, made within the batch.

    Each row is chosen with ``probability`` (0.1 in TorchMultimodal's examples/flava); the chosen
    rows pass their texts on in a circle of random order. So every text is in the batch exactly
    once; texts drawn at random would come twice, and the contrastive loss would see doubles.
    A row whose new text equals its own still matches; ``texts`` may be anything that compares, such
    as token ids. Fewer than two chosen: nothing is exchanged.
    """
    order = np.arange(len(texts))
    chosen = np.flatnonzero(rng.random(len(texts)) < probability)
    if len(chosen) >= 2:
        circle = rng.permutation(chosen)
        order[circle] = np.roll(circle, 1)
    matched = np.array([texts[i] == texts[j] for i, j in enumerate(order.tolist())], dtype=bool)
    return Exchange(order, matched)

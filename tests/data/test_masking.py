import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.flava.image_processing_flava import FlavaMaskingGenerator

from flava.core.randomness import random_generator
from flava.data.masking import TokenMasker, blockwise_mask, exchange_texts
from flava.data.tokenizers import Tokenizer, pad

TOKENIZER = Tokenizer()
GRIDS = [(14, 14), (6, 6), (1, 1), (1, 9), (2, 7), (7, 2), (2, 2), (30, 30)]


def masker(probability: float = 0.15, whole_words: bool = False) -> TokenMasker:
    return TokenMasker.of(TOKENIZER, probability, whole_words=whole_words)


def mask_rows(masker: TokenMasker, rows: list[list[int]], seed: int = 0):
    """Ids, what is real, masked ids and what is selected, each row drawn from its own generator."""
    ids, attention_mask = pad(rows, TOKENIZER.pad)
    draws = np.zeros((3, *ids.shape))
    for index, row in enumerate(rows):
        rng = random_generator(seed, 0, str(index))
        draws[:, index, : len(row)] = masker.draws(rng, len(row))
    return ids, attention_mask, *masker.mask(ids, attention_mask, draws)


def within(successes: int, trials: int, rate: float) -> bool:
    """Whether a count is within five standard deviations of a binomial's mean."""
    return abs(successes - trials * rate) <= 5 * math.sqrt(trials * rate * (1 - rate))


# Patches


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**32))
def test_a_patch_mask_is_bounded_and_repeatable(rows, columns, fraction, seed):
    mask = blockwise_mask(np.random.default_rng(seed), rows, columns, fraction)
    assert mask.shape == (rows, columns)
    assert mask.dtype == bool
    assert mask.sum() <= fraction * rows * columns + 1e-6
    if 1 in (rows, columns):  # no block has sides strictly below the grid's
        assert not mask.any()
    again = blockwise_mask(np.random.default_rng(seed), rows, columns, fraction)
    assert (mask == again).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_patch_masks_are_distributed_as_published(grid):
    patches, draws = grid[0] * grid[1], 400 if grid == (30, 30) else 1000
    ours = np.array([blockwise_mask(np.random.default_rng(i), *grid) for i in range(draws)])
    random.seed(0)
    published = FlavaMaskingGenerator(
        grid,
        total_mask_patches=math.floor(75 / 196 * patches + 1e-6),
        mask_group_min_patches=max(1, 16 / 196 * patches),  # pyright: ignore[reportArgumentType]
    )
    theirs = np.array([published().numpy() for _ in range(draws)])
    # Counts: the frequency of each; places: the frequency of each patch. Both are means of 0 and 1.
    our_counts, their_counts = ours.sum((1, 2)), theirs.sum((1, 2))
    for count in set(our_counts) | set(their_counts):
        same_rate((our_counts == count).sum(), (their_counts == count).sum(), draws)
    for ours_there, theirs_there in zip(ours.sum(0).flat, theirs.sum(0).flat, strict=True):
        same_rate(ours_there, theirs_there, draws)


def same_rate(first: int, second: int, trials: int) -> None:
    """Two binomial counts of one rate differ by five standard deviations at most."""
    rate = (first + second) / (2 * trials)
    assert abs(first - second) <= 5 * math.sqrt(2 * trials * rate * (1 - rate)) + 1e-9


def test_the_paper_masks_75_of_196_patches_at_most():
    counts = [blockwise_mask(np.random.default_rng(i), 14, 14).sum() for i in range(300)]
    assert max(counts) == 75
    assert np.mean(counts) > 70


# Tokens

token_rows = st.lists(
    st.lists(st.integers(0, TOKENIZER.size - 1), min_size=1, max_size=12), min_size=1, max_size=4
)


@given(token_rows, st.booleans(), st.sampled_from([0.0, 0.15, 0.5, 1.0]))
def test_only_ordinary_real_tokens_are_selected(rows, whole_words, probability):
    ids, attention_mask, masked, token_mask = mask_rows(masker(probability, whole_words), rows)
    assert not (token_mask & ~attention_mask).any()
    assert not token_mask[TOKENIZER.special[ids]].any()
    assert (masked == ids)[~token_mask].all()
    assert ((masked >= 0) & (masked < TOKENIZER.size)).all()
    if probability == 0:
        assert not token_mask.any()
    if probability == 1:
        assert (token_mask == attention_mask & ~TOKENIZER.special[ids]).all()


@given(token_rows)
def test_a_texts_mask_does_not_depend_on_its_batch(rows):
    _, attention_mask, masked, token_mask = mask_rows(masker(0.5, True), rows)
    for index, row in enumerate(rows):
        own = masker(0.5, True)
        draws = own.draws(random_generator(0, 0, str(index)), len(row))[:, None]
        alone, alone_selected = own.mask(np.array([row]), np.ones((1, len(row)), bool), draws)
        assert (masked[index][attention_mask[index]] == alone[0]).all()
        assert (token_mask[index][attention_mask[index]] == alone_selected[0]).all()


def test_rates_are_15_percent_and_80_10_10():
    rng = np.random.default_rng(0)
    rows = rng.integers(1000, TOKENIZER.size, (400, 100)).tolist()
    ids, _, masked, token_mask = mask_rows(masker(), rows)
    count = int(token_mask.sum())
    assert within(count, ids.size, 0.15)
    to_mask = token_mask & (masked == TOKENIZER.mask)
    same = token_mask & (masked == ids)
    replaced = token_mask & ~to_mask & ~same
    assert within(int(to_mask.sum()), count, 0.8)
    assert within(int(same.sum()), count, 0.1)
    assert within(int(replaced.sum()), count, 0.1)
    # Random tokens come from the whole vocabulary, evenly: the rate below any id is its share.
    for share in (0.1, 0.5, 0.9):
        below = int((masked[replaced] < share * TOKENIZER.size).sum())
        assert within(below, int(replaced.sum()), share)


def test_the_number_selected_in_a_text_is_binomial():
    rows = np.random.default_rng(1).integers(1000, TOKENIZER.size, (4000, 6)).tolist()
    _, _, _, token_mask = mask_rows(masker(), rows)
    counts = Counter(token_mask.sum(1).tolist())
    for successes in range(4):
        rate = math.comb(6, successes) * 0.15**successes * 0.85 ** (6 - successes)
        assert within(counts[successes], 4000, rate)


def test_whole_words_are_selected_as_one_at_the_same_rate():
    text = "parasailing skunk unaffable stinks antidisestablishmentarianism a"
    row = TOKENIZER.encode(text, 77)
    # Independent of `continues`: the tokenizers library's own numbering of words.
    words = TOKENIZER._backend.encode(text).word_ids
    _, _, _, token_mask = mask_rows(masker(whole_words=True), [row] * 3000)
    for word in range(6):
        places = [i for i, w in enumerate(words) if w == word]
        chosen = token_mask[:, places]
        assert (chosen.all(1) == chosen.any(1)).all()
        assert within(int(chosen[:, 0].sum()), 3000, 0.15)
    assert len(words) > 12


def test_pieces_are_selected_apart_without_whole_words():
    row = TOKENIZER.encode("antidisestablishmentarianism", 77)
    _, _, _, token_mask = mask_rows(masker(), [row] * 500)
    chosen = token_mask[:, 1:-1]
    assert (chosen.any(1) & ~chosen.all(1)).any()


def test_masks_change_with_seed_epoch_and_key():
    draws = {
        random_generator(*at).random()
        for at in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    }
    assert len(draws) == 4
    assert random_generator(0, 0, "a").random() in draws


# Mismatched pairs


@given(st.lists(st.sampled_from("abcdefgh"), max_size=30), st.floats(0, 1), st.integers(0, 999))
def test_exchanged_texts_stay_in_the_batch_once(texts, probability, seed):
    exchange = exchange_texts(np.random.default_rng(seed), texts, probability)
    assert sorted(exchange.order.tolist()) == list(range(len(texts)))
    for row, (other, matched) in enumerate(zip(exchange.order, exchange.matched, strict=True)):
        assert matched == (texts[row] == texts[other])
    moved = [row for row, other in enumerate(exchange.order) if row != other]
    # The moved rows form one circle: following it from any of them passes all the others.
    if moved:
        row, circle = moved[0], []
        while row not in circle:
            circle.append(row)
            row = int(exchange.order[row])
        assert sorted(circle) == moved


def test_rows_are_exchanged_at_the_given_rate():
    rng = np.random.default_rng(0)
    texts = list(range(100))
    moved = sum(int((~exchange_texts(rng, texts, 0.1).matched).sum()) for _ in range(500))
    # A single chosen row stays, with probability 100 * 0.1 * 0.9 ** 99 = 0.0003: no matter here.
    assert within(moved, 50_000, 0.1)


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "a", "a"]])
def test_nothing_to_exchange_leaves_all_matched(texts):
    exchange = exchange_texts(np.random.default_rng(0), texts, 1.0)
    assert exchange.matched.tolist() == [True] * len(texts)


def test_probability_one_exchanges_every_text():
    exchange = exchange_texts(np.random.default_rng(0), list("abcdef"), 1.0)
    assert not exchange.matched.any()

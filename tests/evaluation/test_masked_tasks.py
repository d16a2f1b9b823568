from pathlib import Path

import pytest
import torch
from torch import Tensor

from flava.core.precision import Precision
from flava.evaluation import masked_tasks
from flava.evaluation.embedded_data import EmbeddedPairs
from flava.evaluation.embedded_features import EmbeddedFeatures
from flava.evaluation.record import TaskMetrics
from flava.inference.features import FeatureExtractor
from flava.inference.processor import bert_tokenizer
from tests.evaluation.corpus import WORDS, corpus
from tests.evaluation.oracle import CODES, Guesser, Oracle


@pytest.fixture
def oracle(tmp_path: Path) -> EmbeddedFeatures:
    model = Oracle()
    return EmbeddedFeatures(
        FeatureExtractor(model, Precision.FP32, batch_size=5), corpus(tmp_path, model.config)
    )


@pytest.fixture
def guesser(tmp_path: Path) -> EmbeddedFeatures:
    model = Guesser()
    return EmbeddedFeatures(
        FeatureExtractor(model, Precision.FP32, batch_size=5), corpus(tmp_path, model.config)
    )


def value(outcome: TaskMetrics, metric: str = "accuracy") -> float:
    return outcome.metrics[metric].value


def test_who_knows_the_answers_is_always_right(oracle: EmbeddedFeatures) -> None:
    for measure in (
        masked_tasks.mim,
        masked_tasks.mmm_image,
        masked_tasks.mmm_text,
        masked_tasks.mlm_captions,
        masked_tasks.itm,
    ):
        assert value(measure(oracle, "unseen_style")) == 1.0
    assert value(masked_tasks.itm(oracle, "unseen_style"), "roc_auc") == 1.0


def test_who_relies_on_the_other_side_is_never_right_when_it_is_a_wrong_one(
    oracle: EmbeddedFeatures,
) -> None:
    """The oracle fills in patches from the text, tokens from the image."""
    for measure in (masked_tasks.mmm_image, masked_tasks.mmm_text):
        assert measure(oracle, "unseen_style").metrics["accuracy"].baselines["mismatched"] == 0.0


def test_who_guesses_is_right_by_chance(guesser: EmbeddedFeatures) -> None:
    for measure, n in ((masked_tasks.mim, 48 * 6), (masked_tasks.mmm_image, 48 * 6)):
        measured = measure(guesser, "unseen_concepts_all").metrics["accuracy"]
        assert measured.n == n  # six of sixteen patches are hidden in each of 48 images
        assert abs(measured.value - 1 / CODES) < 4 * (1 / CODES / n) ** 0.5
    itm = masked_tasks.itm(guesser, "unseen_concepts_all")
    assert itm.metrics["accuracy"].n == 96
    assert abs(value(itm) - 0.5) < 4 * (0.25 / 96) ** 0.5
    assert abs(value(itm, "roc_auc") - 0.5) < 0.25


def test_the_head_that_always_says_matched_is_right_half_of_the_time(
    oracle: EmbeddedFeatures,
) -> None:
    oracle.model.itm_head.forward = lambda states: torch.tensor([[0.0, 1.0]]).expand(  # type: ignore
        len(states), 2
    )
    outcome = masked_tasks.itm(oracle, "unseen_style")
    assert value(outcome) == 0.5
    assert value(outcome, "roc_auc") == 0.5


def test_majority_is_what_the_best_constant_answer_reaches(oracle: EmbeddedFeatures) -> None:
    pairs = oracle.corpus.pairs("unseen_style")
    patch_mask = masked_tasks.patch_masks(pairs, 0)
    targets = oracle.codes("unseen_style")[patch_mask]
    best = max((targets == code).double().mean().item() for code in range(CODES))
    assert (
        masked_tasks.mim(oracle, "unseen_style").metrics["accuracy"].baselines["majority"] == best
    )


@pytest.mark.parametrize("name", ["unseen_style", "unseen_concepts_all"])
def test_mismatched_captions_are_all_of_another_concept_and_each_once(
    oracle: EmbeddedFeatures, name: str
) -> None:
    pairs = oracle.corpus.pairs(name)
    for seed in range(20):
        other = masked_tasks._mismatched(pairs, seed)
        assert other.sort().values.equal(torch.arange(len(pairs)))
        assert all(pairs.concepts[i] != pairs.concepts[j] for i, j in enumerate(other.tolist()))
    assert masked_tasks._mismatched(pairs, 0).equal(masked_tasks._mismatched(pairs, 0))
    assert not masked_tasks._mismatched(pairs, 0).equal(masked_tasks._mismatched(pairs, 1))


def test_pairs_of_one_concept_cannot_be_mismatched(oracle: EmbeddedFeatures) -> None:
    pairs: EmbeddedPairs = oracle.corpus.pairs("unseen_style")
    pairs.concepts = ["the same"] * len(pairs)
    with pytest.raises(ValueError, match="too many of them show the same concept"):
        masked_tasks._mismatched(pairs, 0)


def test_only_words_are_hidden_at_the_set_rate_whatever_stands_around(
    oracle: EmbeddedFeatures,
) -> None:
    texts = oracle.corpus.pairs("unseen_concepts_all").captions
    token_mask = masked_tasks.hidden_tokens(texts, seed=0)
    words = (
        texts.attention_mask
        & (texts.input_ids != bert_tokenizer().cls)
        & (texts.input_ids != bert_tokenizer().sep)
    )
    assert not (token_mask & ~words).any()
    n = int(words.sum())
    assert n == 48 * 12
    assert abs(token_mask.sum().item() / n - 0.15) < 4 * (0.15 * 0.85 / n) ** 0.5
    assert masked_tasks.hidden_tokens(texts, seed=0).equal(token_mask)
    assert not masked_tasks.hidden_tokens(texts, seed=1).equal(token_mask)


def test_word_tokens_are_those_with_a_letter_or_digit() -> None:
    kept: Tensor = masked_tasks._word_tokens()
    ids = {bert_tokenizer().token(i): i for i in range(bert_tokenizer().size)}
    assert all(kept[ids[word]] for word in [*WORDS, "##s", "1"])
    assert not any(kept[ids[sign]] for sign in [",", ".", "[MASK]", "[PAD]", "[CLS]", "!"])

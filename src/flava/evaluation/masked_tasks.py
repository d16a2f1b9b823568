"""Masked-patch, masked-token and image-text matching accuracy on held-out data.

One side is masked and the other whole: what is measured is how well the model fills in what it
does not see. The masks are drawn by the seed and each sample's key, so every model gets the same.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flava.core.randomness import random_generator
from flava.data.masking import blockwise_mask
from flava.evaluation.embedded_data import EmbeddedPairs, TokenizedTexts
from flava.evaluation.embedded_features import EmbeddedFeatures
from flava.evaluation.record import MetricValue, TaskMetrics, accuracy, majority
from flava.inference import fill
from flava.inference.features import in_batches
from flava.inference.processor import bert_tokenizer

TOKEN_PROBABILITY = 0.15
"""The share of tokens to predict, BERT's. All become [MASK] here: those that BERT's 80/10/10 leaves
as they are would be no question."""


def mim(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Codes of hidden patches, from the rest of the image."""
    pairs = features.corpus.pairs(split)
    patch_mask = patch_masks(pairs, features.corpus.seed)
    states = features.image_states(pairs.pixels, patch_mask)
    predicted = _predict(features, fill.mim_logits, states, patch_mask)
    return _accuracy_of_patches(features.codes(split)[patch_mask], predicted)


def mlm(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Hidden tokens of texts alone, from the rest of the text."""
    return _text_alone(features, features.corpus.texts(split))


def mlm_captions(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Hidden tokens of captions, from the rest of the caption alone: the MLM head, no image."""
    return _text_alone(features, features.corpus.pairs(split).captions)


def _text_alone(features: EmbeddedFeatures, texts: TokenizedTexts) -> TaskMetrics:
    token_mask = hidden_tokens(texts, features.corpus.seed)
    states = features.text_states(texts, token_mask).states
    predicted = _predict(features, fill.mlm_logits, states, token_mask)
    return _accuracy_of(texts.input_ids[token_mask], predicted)


def mmm_image(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Codes of hidden patches, from the rest of the image and the whole caption."""
    pairs = features.corpus.pairs(split)
    patch_mask = patch_masks(pairs, features.corpus.seed)
    images = features.image_states(pairs.pixels, patch_mask)
    texts = features.text_states(pairs.captions)
    in_order = torch.arange(len(pairs))

    def predict_with(captions: Int[Tensor, " images"]) -> Int[Tensor, " hidden"]:
        codes = torch.zeros(patch_mask.shape, dtype=torch.long)
        for rows, joint in features.joint_states(images, texts, in_order, captions):
            logits = fill.mmm_image_logits(features.model, joint, patch_mask[rows])
            codes[rows] = codes[rows].masked_scatter(patch_mask[rows], logits.argmax(dim=1).cpu())
        return codes[patch_mask]

    other = predict_with(_mismatched(pairs, features.corpus.seed))
    return _accuracy_of_patches(features.codes(split)[patch_mask], predict_with(in_order), other)


def mmm_text(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Hidden tokens of captions, from the rest of the caption and the whole image."""
    pairs = features.corpus.pairs(split)
    token_mask = hidden_tokens(pairs.captions, features.corpus.seed)
    images = features.image_states(pairs.pixels)
    texts = features.text_states(pairs.captions, token_mask)
    in_order = torch.arange(len(pairs))

    def predict_with(image_rows: Int[Tensor, " texts"]) -> Int[Tensor, " hidden"]:
        tokens = torch.zeros(token_mask.shape, dtype=torch.long)
        for rows, joint in features.joint_states(images, texts, image_rows, in_order):
            length = joint.shape[1] - 1 - images.shape[1]
            hidden = token_mask[rows, :length]
            logits = fill.mmm_text_logits(features.model, joint, hidden)
            tokens[rows, :length] = tokens[rows, :length].masked_scatter(
                hidden, logits.argmax(dim=1).cpu()
            )
        return tokens[token_mask]

    other = predict_with(_mismatched(pairs, features.corpus.seed))
    return _accuracy_of(pairs.captions.input_ids[token_mask], predict_with(in_order), other)


def itm(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Each image with its own caption and with another concept's: which belong together?

    The accuracy is that of the head's own decision. It was trained on pairs most of which match,
    so it may lean to "matched"; the area under the ROC curve does not depend on that.
    """
    pairs = features.corpus.pairs(split)
    in_order = torch.arange(len(pairs))
    captions = torch.cat([in_order, _mismatched(pairs, features.corpus.seed)])
    images, texts = features.image_states(pairs.pixels), features.text_states(pairs.captions)
    scores = torch.zeros(len(captions))
    for rows, joint in features.joint_states(images, texts, in_order.repeat(2), captions):
        scores[rows] = features.extractor.matching_scores(joint).cpu()
    truth = torch.arange(len(scores)) < len(pairs)
    chance = {"chance": 0.5}
    return TaskMetrics(
        {
            "accuracy": MetricValue(accuracy(scores > 0, truth), len(scores), chance),
            "roc_auc": MetricValue(float(roc_auc_score(truth, scores)), len(scores), chance),
        }
    )


def _predict(
    features: EmbeddedFeatures,
    head: Callable[[Any, Tensor, Tensor], Tensor],
    states: Float[Tensor, "samples tokens width"],
    mask: Bool[Tensor, "samples *positions"],
) -> Int[Tensor, " hidden"]:
    """The likeliest code or token at each hidden position, sample by sample.

    ``head`` gives the logits from the model, its states and the mask.
    """
    extractor = features.extractor
    return in_batches(
        lambda states, mask: head(extractor.model, states.to(extractor.device), mask).argmax(dim=1),
        extractor.batch_size,
        states,
        mask,
    )


def _accuracy_of_patches(
    targets: Int[Tensor, " hidden"],
    predicted: Int[Tensor, " hidden"],
    mismatched: Int[Tensor, " hidden"] | None = None,
) -> TaskMetrics:
    """Of all hidden patches, and of those whose code is not the commonest, the plain background."""
    is_foreground = targets != targets.mode().values
    all_patches = _accuracy_of(targets, predicted, mismatched).metrics
    if not is_foreground.any():
        return TaskMetrics(all_patches)
    foreground = _accuracy_of(
        targets[is_foreground],
        predicted[is_foreground],
        None if mismatched is None else mismatched[is_foreground],
    )
    return TaskMetrics(all_patches | {"foreground_accuracy": foreground.metrics["accuracy"]})


def _accuracy_of(
    targets: Int[Tensor, " hidden"],
    predicted: Int[Tensor, " hidden"],
    mismatched: Int[Tensor, " hidden"] | None = None,
) -> TaskMetrics:
    """Accuracy beside the commonest target's and, if given, that with a wrong other side."""
    baselines = {"majority": majority(targets)}
    if mismatched is not None:
        baselines["mismatched"] = accuracy(mismatched, targets)
    value = MetricValue(accuracy(predicted, targets), len(targets), baselines)
    return TaskMetrics({"accuracy": value})


def patch_masks(pairs: EmbeddedPairs, seed: int) -> Bool[Tensor, "images rows columns"]:
    """BEiT's blockwise masks, by each image's own generator."""
    grid = pairs.transform.grid
    masks = [
        blockwise_mask(random_generator(seed, 0, f"patches of {k}"), grid, grid) for k in pairs.keys
    ]
    return torch.from_numpy(np.stack(masks))


def _mismatched(pairs: EmbeddedPairs, seed: int) -> Int[Tensor, " images"]:
    """For each pair the row of another one, of another concept and with other words.

    Raises:
        ValueError: half of the pairs or more are of one concept, so that not all can be mismatched.
    """
    rng = random_generator(seed, 0, "mismatched pairs")
    concepts, captions = pairs.concept_ids, np.array(pairs.captions.texts)
    rows = np.arange(len(pairs))
    other = rng.permutation(len(pairs))
    for _ in range(100):
        same = (concepts == concepts[other]) | (captions == captions[other])
        if not same.any():
            return torch.from_numpy(other)
        # Exchange each that still fits with any row; both keep being a permutation.
        for row in np.flatnonzero(same):
            with_row = rng.choice(rows)
            other[[row, with_row]] = other[[with_row, row]]
    raise ValueError("pairs cannot be mismatched: too many of them show the same concept")


@cache
def _word_tokens() -> Bool[Tensor, " vocabulary"]:
    """The entries of the vocabulary that have a letter or a digit and are no special token."""
    vocabulary = bert_tokenizer()
    return torch.tensor(
        [
            not special and any(character.isalnum() for character in vocabulary.token(i))
            for i, special in enumerate(vocabulary.special)
        ]
    )


def hidden_tokens(texts: TokenizedTexts, seed: int) -> Bool[Tensor, "texts length"]:
    """The tokens to predict, by each text's own generator. Short texts may have none.

    Punctuation is not asked for: a third of the tokens of the captions are commas.

    Raises:
        ValueError: no text has any.
    """
    length = texts.input_ids.shape[1]
    draws = [random_generator(seed, 0, f"tokens of {key}").random(length) for key in texts.keys]
    chosen = torch.from_numpy(np.stack(draws) < TOKEN_PROBABILITY)
    token_mask = chosen & texts.attention_mask & _word_tokens()[texts.input_ids]
    if not token_mask.any():
        raise ValueError("no token was selected for prediction: the texts are too few or too short")
    return token_mask

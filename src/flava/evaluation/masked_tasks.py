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
from flava.evaluation.embedded_data import EmbeddedPairs, Texts, tokenizer
from flava.evaluation.features import EvaluatedModel
from flava.evaluation.record import Measured, TaskOutcome, accuracy, majority
from flava.inference import fill

TOKEN_PROBABILITY = 0.15
"""The share of tokens to predict, BERT's. All become [MASK] here: those that BERT's 80/10/10 leaves
as they are would be no question."""


def mim(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Codes of hidden patches, from the rest of the image."""
    pairs = subject.held_out.pairs(split)
    patch_mask = patch_masks(pairs, subject.held_out.seed)
    states = subject.image_states(pairs.pixels, patch_mask)
    guesses = guess(states, patch_mask, subject, fill.patches_alone)
    return image_outcome(subject.codes(split)[patch_mask], guesses)


def mlm(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Hidden tokens of texts alone, from the rest of the text."""
    return text_alone(subject, subject.held_out.texts(split))


def mlm_captions(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Hidden tokens of captions, from the rest of the caption alone: the MLM head, no image."""
    return text_alone(subject, subject.held_out.pairs(split).captions)


def text_alone(subject: EvaluatedModel, texts: Texts) -> TaskOutcome:
    token_mask = hidden_tokens(texts, subject.held_out.seed)
    states = subject.text_states(texts, token_mask).hidden
    guesses = guess(states, token_mask, subject, fill.tokens_alone)
    return outcome(texts.input_ids[token_mask], guesses)


def mmm_image(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Codes of hidden patches, from the rest of the image and the whole caption."""
    pairs = subject.held_out.pairs(split)
    patch_mask = patch_masks(pairs, subject.held_out.seed)
    images = subject.image_states(pairs.pixels, patch_mask)
    texts = subject.text_states(pairs.captions)
    own = torch.arange(len(pairs))

    def guess_with(captions: Int[Tensor, " images"]) -> Tensor:
        guesses = torch.zeros(patch_mask.shape, dtype=torch.long)
        for rows, joint in subject.joint_states(images, texts, own, captions):
            logits = fill.patches_jointly(subject.flava, joint, patch_mask[rows])
            guesses[rows] = guesses[rows].masked_scatter(
                patch_mask[rows], logits.argmax(dim=1).cpu()
            )
        return guesses[patch_mask]

    other = guess_with(mismatched(pairs, subject.held_out.seed))
    return image_outcome(subject.codes(split)[patch_mask], guess_with(own), other)


def mmm_text(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Hidden tokens of captions, from the rest of the caption and the whole image."""
    pairs = subject.held_out.pairs(split)
    token_mask = hidden_tokens(pairs.captions, subject.held_out.seed)
    images = subject.image_states(pairs.pixels)
    texts = subject.text_states(pairs.captions, token_mask)
    own = torch.arange(len(pairs))

    def guess_with(pictures: Int[Tensor, " texts"]) -> Tensor:
        guesses = torch.zeros(token_mask.shape, dtype=torch.long)
        for rows, joint in subject.joint_states(images, texts, pictures, own):
            length = joint.shape[1] - 1 - images.shape[1]
            hidden = token_mask[rows, :length]
            logits = fill.tokens_jointly(subject.flava, joint, hidden)
            guesses[rows, :length] = guesses[rows, :length].masked_scatter(
                hidden, logits.argmax(dim=1).cpu()
            )
        return guesses[token_mask]

    other = guess_with(mismatched(pairs, subject.held_out.seed))
    return outcome(pairs.captions.input_ids[token_mask], guess_with(own), other)


def itm(subject: EvaluatedModel, split: str) -> TaskOutcome:
    """Each image with its own caption and with another concept's: which belong together?

    The accuracy is that of the head's own decision. It was trained on pairs most of which match,
    so it may lean to "matched"; the area under the ROC curve does not depend on that.
    """
    pairs = subject.held_out.pairs(split)
    own = torch.arange(len(pairs))
    captions = torch.cat([own, mismatched(pairs, subject.held_out.seed)])
    images, texts = subject.image_states(pairs.pixels), subject.text_states(pairs.captions)
    scores = torch.zeros(len(captions))
    for rows, joint in subject.joint_states(images, texts, own.repeat(2), captions):
        scores[rows] = fill.matching_scores(subject.flava, joint).cpu()
    truth = torch.arange(len(scores)) < len(own)
    chance = {"chance": 0.5}
    return TaskOutcome(
        {
            "accuracy": Measured(accuracy(scores > 0, truth), len(scores), chance),
            "roc_auc": Measured(float(roc_auc_score(truth, scores)), len(scores), chance),
        }
    )


def guess(
    states: Float[Tensor, "samples tokens width"],
    patch_mask: Bool[Tensor, "samples *positions"],
    subject: EvaluatedModel,
    predict: Callable[[Any, Tensor, Tensor], Tensor],
) -> Int[Tensor, " hidden"]:
    """The likeliest code or token at each hidden position, sample by sample."""
    batches = torch.arange(len(states)).split(subject.batch_size)
    logits = (
        predict(subject.flava, states[rows].to(subject.device), patch_mask[rows])
        for rows in batches
    )
    return torch.cat([each.argmax(dim=1).cpu() for each in logits])


def image_outcome(
    targets: Int[Tensor, " hidden"],
    guesses: Int[Tensor, " hidden"],
    mismatched: Int[Tensor, " hidden"] | None = None,
) -> TaskOutcome:
    """Of all hidden patches, and of those whose code is not the commonest, the plain background."""
    drawn = targets != targets.mode().values
    all_patches = outcome(targets, guesses, mismatched).metrics
    if not drawn.any():
        return TaskOutcome(all_patches)
    others = outcome(
        targets[drawn], guesses[drawn], None if mismatched is None else mismatched[drawn]
    )
    return TaskOutcome(all_patches | {"foreground_accuracy": others.metrics["accuracy"]})


def outcome(
    targets: Int[Tensor, " hidden"],
    guesses: Int[Tensor, " hidden"],
    mismatched: Int[Tensor, " hidden"] | None = None,
) -> TaskOutcome:
    """Accuracy beside the commonest target's and, if given, that with a wrong other side."""
    baselines = {"majority": majority(targets)}
    if mismatched is not None:
        baselines["mismatched"] = accuracy(mismatched, targets)
    return TaskOutcome({"accuracy": Measured(accuracy(guesses, targets), len(targets), baselines)})


def patch_masks(pairs: EmbeddedPairs, seed: int) -> Bool[Tensor, "images rows columns"]:
    """BEiT's blockwise masks, by each image's own generator."""
    grid = pairs.transform.grid
    masks = [
        blockwise_mask(random_generator(seed, 0, f"patches of {k}"), grid, grid) for k in pairs.keys
    ]
    return torch.from_numpy(np.stack(masks))


def mismatched(pairs: EmbeddedPairs, seed: int) -> Int[Tensor, " images"]:
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
def word_tokens() -> Bool[Tensor, " vocabulary"]:
    """The entries of the vocabulary that have a letter or a digit and are no special token."""
    vocabulary = tokenizer()
    return torch.tensor(
        [
            not special and any(character.isalnum() for character in vocabulary.token(i))
            for i, special in enumerate(vocabulary.special)
        ]
    )


def hidden_tokens(texts: Texts, seed: int) -> Bool[Tensor, "texts length"]:
    """The tokens to predict, by each text's own generator. Short texts may have none.

    Punctuation is not asked for: a third of the tokens of the captions are commas.

    Raises:
        ValueError: no text has any.
    """
    length = texts.input_ids.shape[1]
    draws = [random_generator(seed, 0, f"tokens of {key}").random(length) for key in texts.keys]
    chosen = torch.from_numpy(np.stack(draws) < TOKEN_PROBABILITY)
    token_mask = chosen & texts.attention_mask & word_tokens()[texts.input_ids]
    if not token_mask.any():
        raise ValueError("no token was selected for prediction: the texts are too few or too short")
    return token_mask

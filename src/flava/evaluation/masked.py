"""Masked-patch, masked-token and image-text matching accuracy on held-out data.

One side is masked and the other whole: what is measured is how well the model fills in what it
does not see. The masks are drawn by the seed and each sample's key, so every model gets the same.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flava.data.masking import blockwise_mask
from flava.data.seeding import generator
from flava.evaluation import predictions
from flava.evaluation.held_out import Pairs, Texts, tokenizer
from flava.evaluation.metrics import Measured, Outcome, accuracy, majority
from flava.evaluation.subject import Subject

TOKEN_PROBABILITY = 0.15
"""The share of tokens to predict, BERT's. All become [MASK] here: those that BERT's 80/10/10 leaves
as they are would be no question."""


def mim(subject: Subject, split: str) -> Outcome:
    """Codes of hidden patches, from the rest of the image."""
    pairs = subject.held_out.pairs(split)
    selected = patch_masks(pairs, subject.held_out.seed)
    guesses = [
        predictions.patches_alone(subject.model, subject.pixels(split, rows), selected[rows])
        for rows in subject.batches(len(pairs))
    ]
    return masked_outcome(guesses, subject.codes(split)[selected])


def mmm_image(subject: Subject, split: str) -> Outcome:
    """Codes of hidden patches, from the rest of the image and the whole caption."""
    pairs = subject.held_out.pairs(split)
    selected = patch_masks(pairs, subject.held_out.seed)

    def guess(texts: Int[Tensor, " images"]) -> list[Tensor]:
        return [
            predictions.patches_with_text(
                subject.model,
                subject.pixels(split, rows),
                selected[rows],
                *subject.tokens(pairs.captions, texts[rows]),
            )
            for rows in subject.batches(len(pairs))
        ]

    other = mismatched(pairs, subject.held_out.seed)
    return masked_outcome(
        guess(torch.arange(len(pairs))), subject.codes(split)[selected], guess(other)
    )


def mlm(subject: Subject, split: str) -> Outcome:
    """Hidden tokens of texts alone, from the rest of the text."""
    return text_alone(subject, subject.held_out.texts(split))


def mlm_captions(subject: Subject, split: str) -> Outcome:
    """Hidden tokens of captions, from the rest of the caption alone: the MLM head, no image."""
    return text_alone(subject, subject.held_out.pairs(split).captions)


def text_alone(subject: Subject, texts: Texts) -> Outcome:
    selected = hidden_tokens(texts, subject.held_out.seed)
    guesses = []
    for rows in subject.batches(len(texts.texts)):
        ids, real = subject.tokens(texts, rows)
        hidden = selected[rows, : ids.shape[1]]
        guesses.append(predictions.tokens_alone(subject.model, ids, real, hidden))
    return masked_outcome(guesses, texts.ids[selected])


def mmm_text(subject: Subject, split: str) -> Outcome:
    """Hidden tokens of captions, from the rest of the caption and the whole image."""
    pairs = subject.held_out.pairs(split)
    selected = hidden_tokens(pairs.captions, subject.held_out.seed)

    def guess(images: Int[Tensor, " images"]) -> list[Tensor]:
        guesses = []
        for rows in subject.batches(len(pairs)):
            ids, real = subject.tokens(pairs.captions, rows)
            pixels, hidden = subject.pixels(split, images[rows]), selected[rows, : ids.shape[1]]
            guesses.append(predictions.tokens_with_image(subject.model, pixels, ids, real, hidden))
        return guesses

    other = mismatched(pairs, subject.held_out.seed)
    return masked_outcome(
        guess(torch.arange(len(pairs))), pairs.captions.ids[selected], guess(other)
    )


def itm(subject: Subject, split: str) -> Outcome:
    """Each image with its own caption and with another concept's: which belong together?

    The accuracy is that of the head's own decision. It was trained on pairs most of which match,
    so it may lean to "matched"; the area under the ROC curve does not depend on that.
    """
    pairs = subject.held_out.pairs(split)
    own = torch.arange(len(pairs))
    scores = torch.cat(
        [
            predictions.matching_scores(
                subject.model,
                subject.pixels(split, rows),
                *subject.tokens(pairs.captions, texts[rows]),
            ).cpu()
            for texts in (own, mismatched(pairs, subject.held_out.seed))
            for rows in subject.batches(len(pairs))
        ]
    )
    truth = torch.arange(len(scores)) < len(own)
    chance = {"chance": 0.5}
    return Outcome(
        {
            "accuracy": Measured(accuracy(scores > 0, truth), len(scores), chance),
            "roc_auc": Measured(float(roc_auc_score(truth, scores)), len(scores), chance),
        }
    )


def masked_outcome(
    guesses: list[Tensor], targets: Int[Tensor, " hidden"], mismatched: list[Tensor] | None = None
) -> Outcome:
    """Accuracy beside the commonest target's and, if given, that with a wrong other side."""
    baselines = {"majority": majority(targets)}
    if mismatched is not None:
        baselines["mismatched"] = accuracy(torch.cat(mismatched).argmax(dim=1).cpu(), targets)
    value = accuracy(torch.cat(guesses).argmax(dim=1).cpu(), targets)
    return Outcome({"accuracy": Measured(value, len(targets), baselines)})


def patch_masks(pairs: Pairs, seed: int) -> Bool[Tensor, "images rows columns"]:
    """BEiT's blockwise masks, by each image's own generator."""
    grid = pairs.transform.grid
    masks = [blockwise_mask(generator(seed, 0, f"patches of {k}"), grid, grid) for k in pairs.keys]
    return torch.from_numpy(np.stack(masks))


def mismatched(pairs: Pairs, seed: int) -> Int[Tensor, " images"]:
    """For each pair the row of another one, of another concept and with other words.

    Raises:
        ValueError: half of the pairs or more are of one concept, so that not all can be mismatched.
    """
    rng = generator(seed, 0, "mismatched pairs")
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


def hidden_tokens(texts: Texts, seed: int) -> Bool[Tensor, "texts length"]:
    """The tokens to predict, by each text's own generator. Short texts may have none.

    Raises:
        ValueError: no text has any.
    """
    special = torch.from_numpy(tokenizer().special)
    length = texts.ids.shape[1]
    draws = [generator(seed, 0, f"tokens of {key}").random(length) for key in texts.keys]
    chosen = torch.from_numpy(np.stack(draws) < TOKEN_PROBABILITY)
    selected = chosen & texts.real & ~special[texts.ids]
    if not selected.any():
        raise ValueError("no token was selected for prediction: the texts are too few or too short")
    return selected

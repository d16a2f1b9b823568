"""Candidates of retrieval ranked anew by the head that was trained to match images with texts."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from flava.batch import to_device
from flava.data.labelled import Row
from flava.evaluation.outputs import PAIR_MAX_LENGTH, counted, text_reader
from flava.evaluation.predictions import matching_scores
from flava.evaluation.subject import evaluating
from flava.evaluation.suite.multimodal.contrastive import image_reader
from flava.evaluation.suite.task import Settings
from flava.model import Flava

Pairs = Int[np.ndarray, "pairs 2"]
"""Of each pair the image's row, then the text's."""


def score_pairs(
    model: Flava, images: Sequence[Row], texts: Sequence[Row], pairs: Pairs, settings: Settings
) -> Float[np.ndarray, " pairs"]:
    """The matching head's logit of "matched" over "mismatched" for each pair.

    Image by image, each read and encoded once: only one image's states are in memory. Texts are
    encoded for each image anew, which takes less than joining them with it.
    """
    scores = np.zeros(len(pairs), dtype=np.float32)
    batches = counted(one_image(pairs, settings.batch_size), len, len(pairs), "matching")
    see, read = image_reader(model), text_reader(model.config.text, PAIR_MAX_LENGTH)
    device = next(model.parameters()).device
    shown, hidden = -1, torch.empty(0)
    with evaluating(model, settings.precision):
        for batch in batches:
            image = int(pairs[batch[0], 0])
            if image != shown:
                pixels = see.batch([see.read(images[image], None)]).pixels
                shown, hidden = image, model.image_encoder(pixels.to(device))
            inputs = read.batch([read.read(texts[row], None) for row in pairs[batch, 1].tolist()])
            text = to_device(inputs, device)
            states = model.text_encoder(text.ids, text.real)
            joint = model.multimodal(hidden.expand(len(batch), -1, -1), states, text.real)
            scores[batch] = matching_scores(model, joint).float().cpu().numpy()
    return scores


def one_image(pairs: Pairs, size: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """The pairs' places in batches of one image each, of no more than ``size``."""
    order = np.argsort(pairs[:, 0], kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(pairs[order, 0])) + 1):
        for start in range(0, len(same), size):
            yield same[start : start + size]


def ranks_again(
    places: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, "queries k"],
    scores: Float[np.ndarray, "queries k"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " gallery"],
) -> Int[np.ndarray, " queries"]:
    """The place, from 0, of the best right one when the first k are put in the order of scores.

    Where none of them is right it stays at its place among all, ``places``. A wrong candidate with
    exactly the same score counts as better, as in `flava.evaluation.retrieval.ranks`.
    """
    right = gallery_ids[candidates] == query_ids[:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    again = ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), again, places)

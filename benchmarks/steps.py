"""Updates of the base model's weights, batch 8: pairs, images, texts, and their mixture."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks import inputs
from benchmarks.contenders import (
    LOSSES,
    agree,
    base_model,
    hugging_face,
    ours,
    torch_multimodal,
    training,
)
from benchmarks.measure import Result, compare, joined
from flava.batch import Batch, ImageBatch, PairBatch
from flava.model import Flava

BATCH = 8
CODED, PAIRS, IMAGES, TEXTS = "coded", "pairs", "images", "texts"
SHARES = {PAIRS: 0.70, IMAGES: 0.15, TEXTS: 0.15}
"""How often each kind comes in the mixture: TorchMultimodal's examples/flava, and our recipes."""
SHOWN = {
    CODED: "pair step, codes kept",
    PAIRS: "pair step, codes computed in it",
    IMAGES: "image step",
    TEXTS: "text step",
}
MIXTURE = "mixture 0.70 / 0.15 / 0.15"
GOALS = {CODED: 1.9, PAIRS: 1.5, IMAGES: 2.0}
"""Against transformers in the same precision."""


def batches(model: Flava) -> dict[str, Batch]:
    """One of each kind, and the pairs with their codes computed beforehand."""
    pairs = inputs.pairs(model.config, BATCH)
    return {
        CODED: with_codes(model, pairs),
        PAIRS: pairs,
        IMAGES: pairs.image,
        TEXTS: inputs.texts(BATCH),
    }


@torch.no_grad()
def with_codes(model: Flava, pairs: PairBatch) -> PairBatch:
    image = pairs.image
    assert isinstance(image, ImageBatch)
    return replace(pairs, image=inputs.coded(image, model.codebook.codes(image.codebook_pixels)))


def against_hugging_face(rounds: int) -> Iterator[Result]:
    model = base_model()
    own, peer = ours(model), hugging_face(model)
    given = batches(model)
    for batch in given.values():
        agree(own, peer, batch)
    update, update_peer = training(own), training(peer)
    for kind, batch in given.items():
        yield compare(
            SHOWN[kind],
            {own.name: partial(update, batch), peer.name: partial(update_peer, batch)},
            {peer.name: GOALS[kind]} if kind in GOALS else {},
            rounds=rounds,
        )
    yield compare(
        "pair step, transformers in fp32",
        {
            own.name: partial(update, given[PAIRS]),
            peer.name: partial(update_peer, given[PAIRS], torch.float32),
        },
        {peer.name: 6.0},
        rounds=max(1, rounds // 3),
    )


def against_torch_multimodal(rounds: int) -> Iterator[Result]:
    """Codes are computed in the step: it has no other way."""
    model = base_model()
    own, peer = ours(model), torch_multimodal(model)
    given = batches(model)
    for kind in SHARES:
        # It attends to padding in its multimodal encoder, so losses of its states differ.
        agree(own, peer, given[kind], LOSSES - {"mmm_image", "mmm_text", "itm"})
    update, update_peer = training(own), training(peer)
    found = {
        kind: compare(
            SHOWN[kind],
            {own.name: partial(update, given[kind]), peer.name: partial(update_peer, given[kind])},
            {},
            rounds=rounds,
        )
        for kind in SHARES
    }
    yield from found.values()
    yield joined(MIXTURE, [(SHARES[kind], found[kind]) for kind in SHARES], {peer.name: 2.0})


def run(rounds: int) -> Iterator[Result]:
    """One peer after the other: two base models with their optimisers are what memory holds."""
    yield from against_hugging_face(rounds)
    yield from against_torch_multimodal(rounds)

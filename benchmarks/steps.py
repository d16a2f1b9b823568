"""Measures training steps of the base model on batches of 8 pairs, images or texts, and a mixture.

Contenders run as their users run them, each in its own process: ours with the allocator settings of
`flava train` and codes precomputed by `flava data tokenize`, the peers computing codes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from benchmarks import inputs
from benchmarks.contenders import (
    LOSSES,
    Contender,
    agree,
    base_model,
    hugging_face,
    ours,
    torch_multimodal,
    training,
)
from benchmarks.measure import OURS, Result, compare, joined
from benchmarks.turns import Calls, Elsewhere, process
from flava.core.batch import Batch, ImageBatch, PairBatch
from flava.models import Flava
from flava.training.launch import keep_freed_memory
from flava.training.parallel import prepare_blocks

BATCH = 8
CODED, PAIRS, CODED_IMAGES, IMAGES, TEXTS = "coded", "pairs", "coded images", "images", "texts"
FULL = "pairs in fp32"
SHARES = {PAIRS: 0.70, IMAGES: 0.15, TEXTS: 0.15}
"""Share of each kind in the mixture, as in TorchMultimodal's examples/flava and our recipes."""
TRANSFORMERS, TORCHMULTIMODAL = "transformers", "torchmultimodal"
PEERS: Mapping[str, Callable[[Flava], Contender]] = {
    TRANSFORMERS: hugging_face,
    TORCHMULTIMODAL: torch_multimodal,
}


@dataclass(frozen=True)
class Row:
    """A comparison: the kind of batch that ours gets, and that of the peer."""

    name: str
    own: str
    peers: str
    goal: float | None = None
    share: float = 1.0
    """Share of the rounds that are measured."""


ROWS = (
    Row("pair step, codes kept", CODED, PAIRS, 1.9),
    Row("pair step, codes computed in it", PAIRS, PAIRS, 1.5),
    Row("pair step, codes given to both", CODED, CODED),
    Row("pair step, codes kept, transformers in fp32", CODED, FULL, 6.0, share=1 / 3),
    Row("image step, codes kept", CODED_IMAGES, IMAGES, 2.0),
    Row("image step, codes computed in it", IMAGES, IMAGES),
    Row("text step", TEXTS, TEXTS),
)
"""Against transformers."""
COMPILED = Row("pair step, codes kept, --compile-blocks", CODED, PAIRS, 1.9)


def batches(model: Flava) -> dict[str, Batch]:
    """A batch of each kind, the same in every process."""
    torch.manual_seed(1)
    pairs = inputs.pairs(model.config, BATCH)
    coded = with_codes(model, pairs)
    return {
        CODED: coded,
        PAIRS: pairs,
        CODED_IMAGES: coded.image,
        IMAGES: pairs.image,
        TEXTS: inputs.texts(BATCH),
    }


@torch.no_grad()
def with_codes(model: Flava, pairs: PairBatch) -> PairBatch:
    image = pairs.image
    assert isinstance(image, ImageBatch)
    return replace(pairs, image=inputs.coded(image, model.codebook.codes(image.codebook_pixels)))


def our_steps(*, checkpointed: bool = False, compiled: bool = False) -> Calls:
    keep_freed_memory()
    model = base_model()
    prepare_blocks(model, checkpointed=checkpointed, compiled=compiled)
    step = training(ours(model))
    calls = {kind: partial(step, batch) for kind, batch in batches(model).items()}
    if compiled:
        calls[CODED]()  # compiles, so that no round is timed with it
    return calls


def peer_steps(name: str) -> Calls:
    model = base_model()
    given = batches(model)
    step = training(PEERS[name](model))
    calls = {kind: partial(step, batch) for kind, batch in given.items()}
    return {**calls, FULL: partial(step, given[PAIRS], torch.float32)}


def check(name: str, kinds: list[str], losses: frozenset[str] = LOSSES) -> None:
    """Raises AssertionError if a loss of the peer differs from ours."""
    model = base_model()
    own, peer, given = ours(model), PEERS[name](model), batches(model)
    for kind in kinds:
        agree(own, peer, given[kind], losses)


def against_transformers(rounds: int) -> Iterator[Result]:
    check(TRANSFORMERS, [CODED, PAIRS, CODED_IMAGES, IMAGES, TEXTS])
    with process(partial(peer_steps, TRANSFORMERS)) as peers:

        def compared(row: Row, own: Mapping[str, Elsewhere]) -> Result:
            works = {OURS: own[row.own], TRANSFORMERS: peers[row.peers]}
            goals = {} if row.goal is None else {TRANSFORMERS: row.goal}
            return compare(row.name, works, goals, rounds=max(1, round(rounds * row.share)))

        with process(our_steps) as own:
            for row in ROWS:
                yield compared(row, own)
        with process(partial(our_steps, compiled=True)) as own:
            yield compared(COMPILED, own)


def against_torchmultimodal(rounds: int) -> Iterator[Result]:
    # Its multimodal encoder attends to padding, so the losses on multimodal states differ.
    check(TORCHMULTIMODAL, list(SHARES), LOSSES - {"mmm_image", "mmm_text", "itm"})
    with process(our_steps) as own, process(partial(peer_steps, TORCHMULTIMODAL)) as peers:

        def compared(name: str, own_kind: str, kind: str) -> Result:
            works = {OURS: own[own_kind], TORCHMULTIMODAL: peers[kind]}
            return compare(name, works, {}, rounds=rounds)

        kept = {
            PAIRS: compared("pair step, codes kept", CODED, PAIRS),
            IMAGES: compared("image step, codes kept", CODED_IMAGES, IMAGES),
            TEXTS: compared("text step", TEXTS, TEXTS),
        }
        computed = {
            PAIRS: compared("pair step, codes computed in it", PAIRS, PAIRS),
            IMAGES: compared("image step, codes computed in it", IMAGES, IMAGES),
        }
    yield from (*kept.values(), *computed.values())
    for about, found, goals in (
        ("codes kept", kept, {TORCHMULTIMODAL: 2.0}),
        ("codes computed", kept | computed, {}),
    ):
        parts = [(SHARES[kind], found[kind]) for kind in SHARES]
        yield joined(f"mixture 0.70 / 0.15 / 0.15, {about}", parts, goals)


def run(rounds: int) -> Iterator[Result]:
    """One peer after the other: memory holds two base models with their optimizers."""
    yield from against_transformers(rounds)
    yield from against_torchmultimodal(rounds)

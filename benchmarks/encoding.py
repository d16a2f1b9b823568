"""Measures inference of the base model in bf16 and int8, for images, texts and pairs.

``run`` measures typical batches; ``growth`` varies the batch size, image size and text length.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import inputs
from benchmarks.contenders import base_model, hugging_face
from benchmarks.measure import OURS, Result, compare
from benchmarks.turns import Here
from flava.core.batch import TextBatch
from flava.inference.int8 import InferencePrecision, to_precision
from flava.models import Flava

IMAGES, TEXTS, PAIRS = 8, 64, 8
LONG = 300
"""Words of a long text."""
BATCHES = (1, 4, 16, 64)
SIZES = (224, 320, 384, 480)
LENGTHS = (8, 32, 128, 512)

PEER, BF16, INT8 = "transformers", "flava in bf16", "flava in int8"
NEAR = 0.99
"""Smallest cosine allowed between an embedding in int8 and the same in fp32."""

Works = dict[str, Here]
"""Contender -> the same task done by it."""


class Both:
    """Both models, ours in fp32, bf16 and int8, and the tasks to encode images, texts or pairs.

    Images and texts become unit vectors of the contrastive space, pairs multimodal [CLS] states.
    """

    def __init__(self) -> None:
        self.ours = base_model().eval()
        self.peer: Any = hugging_face(self.ours).model.eval().flava
        self.bf16 = to_precision(self.ours, InferencePrecision.BF16)
        self.int8 = to_precision(self.ours, InferencePrecision.INT8)

    def image(self, pixels: Tensor) -> Works:
        def peer() -> Tensor:
            states = self.peer.get_image_features(pixels, interpolate_pos_encoding=True)
            return functional.normalize(states.pooler_output[:, 0], dim=-1)

        return self.computing(lambda model: model.encode_image(pixels), peer)

    def text(self, texts: TextBatch, padding: int) -> Works:
        padded = inputs.padded(texts, padding)

        def peer() -> Tensor:
            states = self.peer.get_text_features(
                padded.input_ids, attention_mask=padded.attention_mask.long()
            )
            return functional.normalize(states.pooler_output[:, 0], dim=-1)

        return self.computing(
            lambda model: model.encode_text(texts.input_ids, texts.attention_mask), peer
        )

    def pair(self, pixels: Tensor, texts: TextBatch) -> Works:
        """Compute the multimodal [CLS] states."""
        padded = inputs.padded(texts, inputs.PADDED)

        def ours(model: Flava) -> Tensor:
            image, text = (
                model.image_encoder(pixels),
                model.text_encoder(texts.input_ids, texts.attention_mask),
            )
            return model.multimodal(image, text, texts.attention_mask)[:, 0]

        def peer() -> Tensor:
            found = self.peer(
                input_ids=padded.input_ids,
                pixel_values=pixels,
                attention_mask=padded.attention_mask.long(),
            )
            return found.multimodal_embeddings[:, 0]

        return self.computing(ours, peer)

    def computing(self, ours: Callable[[Flava], Tensor], peer: Callable[[], Tensor]) -> Works:
        """The tasks, after a check that results are equal in fp32 and close to it in int8."""
        with torch.inference_mode():
            exact = ours(self.ours)
            torch.testing.assert_close(exact, peer(), rtol=0, atol=1e-4)
        int8 = partial(in_bf16, partial(ours, self.int8))
        assert functional.cosine_similarity(int8().float(), exact).min() > NEAR
        return {
            BF16: Here(partial(in_bf16, partial(ours, self.bf16))),
            INT8: Here(int8),
            PEER: Here(partial(in_bf16, peer)),
        }


def in_bf16(call: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return call()


def run(rounds: int) -> Iterator[Result]:
    both = Both()
    pixels = inputs.images(both.ours.config, IMAGES).pixels
    for name, works, goals in (
        (f"{IMAGES} images", both.image(pixels), {PEER: 1.15}),
        (f"{TEXTS} captions", both.text(inputs.texts(TEXTS), inputs.PADDED), {PEER: 5.0}),
        (f"8 texts of {LONG} words", both.text(inputs.texts(8, words=LONG), 512), {}),
        (f"{PAIRS} pairs", both.pair(pixels, inputs.texts(PAIRS)), {}),
    ):
        yield compare(name, in_turns(works, BF16, PEER), goals, rounds=rounds)
        yield compare(f"{name}, int8", in_turns(works, INT8, BF16, PEER), {}, rounds=rounds)


def in_turns(works: Works, ours: str, *others: str) -> Works:
    return {OURS: works[ours]} | {name: works[name] for name in others}


def growth(rounds: int) -> Iterator[Result]:
    """Time over batch size, image size and text length."""
    both = Both()

    def grown(name: str, of: str, size: int, works: Works) -> Result:
        found = compare(name, in_turns(works, BF16, PEER), {}, rounds=rounds)
        return replace(found, of=of, size=size)

    for batch in BATCHES:
        works = both.image(inputs.images(both.ours.config, batch).pixels)
        yield grown(f"images, batch {batch}", "images in a batch", batch, works)
    for size in SIZES:
        works = both.image(torch.randn(2, 3, size, size))
        yield grown(f"2 images of {size} pixels", "pixels a side, 2 images", size, works)
    for length in LENGTHS:
        works = both.text(inputs.exact_texts(8, length), length)
        yield grown(f"8 texts of {length} tokens", "tokens a text, 8 texts", length, works)

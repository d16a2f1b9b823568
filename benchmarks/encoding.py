"""Inference of the base model in bf16: images, short and long texts, pairs; and how cost grows."""

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
from flava.batch import TextBatch
from flava.inference.passes import in_precision
from flava.model import Flava
from flava.precision import Precision

IMAGES, TEXTS, PAIRS = 8, 64, 8
LONG = 300
"""Words of a long text."""
BATCHES = (1, 4, 16, 64)
SIZES = (224, 320, 384, 480)
LENGTHS = (8, 32, 128, 512)

PEER = "transformers"


class Both:
    """The two models' unit vectors of the contrastive space, and states of pairs."""

    def __init__(self) -> None:
        self.ours = base_model().eval()
        self.peer: Any = hugging_face(self.ours).model.eval().flava
        lower = in_precision(self.ours, Precision.BF16)
        assert isinstance(lower, Flava)
        self.lower = lower

    def image(self, pixels: Tensor) -> dict[str, Here]:
        def peer() -> Tensor:
            states = self.peer.get_image_features(pixels, interpolate_pos_encoding=True)
            return functional.normalize(states.pooler_output[:, 0], dim=-1)

        return self.computing(lambda model: model.encode_image(pixels), peer)

    def text(self, texts: TextBatch, padding: int) -> dict[str, Here]:
        padded = inputs.padded(texts, padding)

        def peer() -> Tensor:
            states = self.peer.get_text_features(padded.ids, attention_mask=padded.real.long())
            return functional.normalize(states.pooler_output[:, 0], dim=-1)

        return self.computing(lambda model: model.encode_text(texts.ids, texts.real), peer)

    def pair(self, pixels: Tensor, texts: TextBatch) -> dict[str, Here]:
        """[CLS_M] of the multimodal encoder."""
        padded = inputs.padded(texts, inputs.PADDED)

        def ours(model: Flava) -> Tensor:
            image, text = model.image_encoder(pixels), model.text_encoder(texts.ids, texts.real)
            return model.multimodal(image, text, texts.real)[:, 0]

        def peer() -> Tensor:
            found = self.peer(
                input_ids=padded.ids, pixel_values=pixels, attention_mask=padded.real.long()
            )
            return found.multimodal_embeddings[:, 0]

        return self.computing(ours, peer)

    def computing(
        self, ours: Callable[[Flava], Tensor], peer: Callable[[], Tensor]
    ) -> dict[str, Here]:
        """Both, checked to be the same in fp32, to be called in bf16: ours as `flava.load` does."""
        with torch.inference_mode():
            torch.testing.assert_close(ours(self.ours), peer(), rtol=0, atol=1e-4)
        return {
            OURS: Here(partial(in_bf16, partial(ours, self.lower))),
            PEER: Here(partial(in_bf16, peer)),
        }


def in_bf16(call: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return call()


def run(rounds: int) -> Iterator[Result]:
    both = Both()
    pixels = inputs.images(both.ours.config, IMAGES).pixels
    for name, calls, goals in (
        (f"{IMAGES} images", both.image(pixels), {PEER: 1.15}),
        (f"{TEXTS} captions", both.text(inputs.texts(TEXTS), inputs.PADDED), {PEER: 5.0}),
        (f"8 texts of {LONG} words", both.text(inputs.texts(8, words=LONG), 512), {}),
        (f"{PAIRS} pairs", both.pair(pixels, inputs.texts(PAIRS)), {}),
    ):
        yield compare(name, calls, goals, rounds=rounds)


def growth(rounds: int) -> Iterator[Result]:
    """With the batch, the image and the text."""
    both = Both()

    def grown(name: str, of: str, size: int, works: dict[str, Here]) -> Result:
        return replace(compare(name, works, {}, rounds=rounds), of=of, size=size)

    for batch in BATCHES:
        works = both.image(inputs.images(both.ours.config, batch).pixels)
        yield grown(f"images, batch {batch}", "images in a batch", batch, works)
    for size in SIZES:
        works = both.image(torch.randn(2, 3, size, size))
        yield grown(f"2 images of {size} pixels", "pixels a side, 2 images", size, works)
    for length in LENGTHS:
        works = both.text(inputs.exact_texts(8, length), length)
        yield grown(f"8 texts of {length} tokens", "tokens a text, 8 texts", length, works)

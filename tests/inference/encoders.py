"""Encoders that are quick and whose output is known, in the place of a model."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flava.inference.int8 import InferencePrecision
from flava.inference.pretrained import Pretrained
from flava.inference.processor import ImagesLike, image_list
from flava.inference.results import Match

WIDTH = 12


class KnownEncoder(Pretrained):
    """An embedding depends on the row alone: on the image's pixels, on the text's characters."""

    def __init__(self, identity: str = "model-a") -> None:
        self.identity, self.precision = identity, InferencePrecision.FP32
        self.batches: list[int] = []
        """Sizes of the batches that it was asked for."""

    @property
    def logit_scale(self) -> float:
        return 2.0

    def encode_image(self, images: ImagesLike) -> Float[Tensor, "images width"]:
        images = image_list(images)
        self.batches.append(len(images))
        return torch.stack([vector(np.asarray(image).tobytes()) for image in images])

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        self.batches.append(len(texts))
        return torch.stack([vector(text.encode()) for text in texts])

    def encode_pair(self, images: ImagesLike, texts: Sequence[str]) -> Float[Tensor, "pairs width"]:
        return self.encode_image(images) - 2 * self.encode_text(texts)

    def match(self, images: ImagesLike, texts: Sequence[str]) -> Match:
        cosine = (self.encode_image(images) * self.encode_text(texts)).sum(dim=1)
        return Match(probability=torch.sigmoid(3 * cosine), cosine=cosine)


def vector(data: bytes) -> Float[Tensor, " width"]:
    """A unit vector drawn by the data's hash."""
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    draw = np.random.default_rng(seed).standard_normal(WIDTH, dtype=np.float32)
    return functional.normalize(torch.from_numpy(draw), dim=0)

"""What is evaluated: a model with its features of the held-out data, computed once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flava.evaluation.held_out import HeldOut, Texts, tokenizer
from flava.evaluation.linear_probe import pca_of_pixels
from flava.model import Flava


class Featuriser(Protocol):
    """What a linear probe reads."""

    held_out: HeldOut

    def features(self, split: str) -> Float[np.ndarray, "images width"]: ...


class Subject:
    """A model under evaluation. Computes in the precision of its weights."""

    def __init__(self, model: Flava, held_out: HeldOut, batch_size: int) -> None:
        self.model, self.held_out, self.batch_size = model, held_out, batch_size
        self.device = next(model.parameters()).device
        self._images: dict[str, tuple[Tensor, Tensor]] = {}
        self._captions: dict[str, Tensor] = {}

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        """The image encoder's [CLS] after the final norm."""
        return self._encode_images(split)[0].numpy()

    def image_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space."""
        return self._encode_images(split)[1]

    def caption_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the canonical captions."""
        if split not in self._captions:
            captions = self.held_out.pairs(split).captions
            self._captions[split] = embed_texts(
                self.model, captions.ids, captions.real, self.batch_size
            )
        return self._captions[split]

    def codes(self, split: str) -> Int[Tensor, "images rows columns"]:
        """The codebook's codes of every patch."""
        pixels = self.held_out.pairs(split).codebook_pixels.split(self.batch_size)
        return torch.cat([self.model.codebook.codes(part.to(self.device)).cpu() for part in pixels])

    def batches(self, n: int) -> tuple[Int[Tensor, " rows"], ...]:
        """The rows 0 to n in batches."""
        return torch.arange(n).split(self.batch_size)

    def pixels(self, split: str, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows 3 h w"]:
        """Some of a split's images, for the image encoder."""
        return self.held_out.pairs(split).pixels[rows].to(self.device)

    def tokens(
        self, texts: Texts, rows: Int[Tensor, " rows"]
    ) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
        """Some texts, cut to the longest of them."""
        real = texts.real[rows]
        length = int(real.sum(dim=1).max())
        return texts.ids[rows, :length].to(self.device), real[:, :length].to(self.device)

    def embed(self, texts: list[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of any texts."""
        ids, real = tokenizer().batch(texts, self.model.config.text.max_length)
        return embed_texts(self.model, ids, real, self.batch_size)

    def _encode_images(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._images:
            parts = [
                encode_images(self.model, pixels.to(self.device))
                for pixels in self.held_out.pairs(split).pixels.split(self.batch_size)
            ]
            features, embeddings = zip(*parts, strict=True)
            self._images[split] = torch.cat(features).cpu(), torch.cat(embeddings).cpu()
        return self._images[split]


class PixelComponents:
    """The baseline of the linear probe: as many principal components of the pixels."""

    def __init__(self, held_out: HeldOut, fitted_on: str, components: int) -> None:
        self.held_out = held_out
        self.pca = pca_of_pixels(self._pixels(fitted_on), components, held_out.seed)

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        return self.pca.transform(self._pixels(split))

    def _pixels(self, split: str) -> Float[np.ndarray, "images pixels"]:
        return self.held_out.pairs(split).pixels.flatten(1).numpy()


def encode_images(
    model: Flava, pixels: Float[Tensor, "batch 3 height width"]
) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch projection"]]:
    """[CLS] after the final norm, and the unit vector of the contrastive space."""
    hidden = model.image_encoder(pixels)
    return model.image_encoder.norm(hidden[:, 0]).float(), model.project_image(hidden)


def embed_texts(
    model: Flava,
    ids: Int[Tensor, "texts length"],
    real: Bool[Tensor, "texts length"],
    batch_size: int,
) -> Float[Tensor, "texts projection"]:
    """Unit vectors, computed from short texts to long so that little padding is encoded."""
    device = next(model.parameters()).device
    order = real.sum(dim=1).argsort()
    embedded = [
        model.encode_text(ids[rows, :length].to(device), real[rows, :length].to(device)).cpu()
        for rows in order.split(batch_size)
        for length in [int(real[rows].sum(dim=1).max())]
    ]
    return torch.cat(embedded)[order.argsort()]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout within; the model's mode is as before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)

"""What is evaluated: a model with its features of the held-out data, computed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flava.evaluation.held_out import HeldOut, Texts, tokenizer
from flava.evaluation.linear_probe import LinearProbe, pca_of_pixels
from flava.model import Clip, Dino, Flava, MaskedImage, MaskedText
from flava.model.clip import at_end
from flava.model.flava import OPTIONAL_PARTS
from flava.precision import Precision

Evaluated = Flava | Clip | MaskedImage | MaskedText | Dino
"""What can be evaluated: whatever has an encoder of the corpus's images or texts."""

FLAVAS_OWN = frozenset(OPTIONAL_PARTS) - {"logit_scale"}
PARTS = FLAVAS_OWN | {"image_encoder", "text_encoder", "projections"}
"""What tasks may need, `lacking` what a model lacks of it."""

BOTH = ("image_encoder", "text_encoder", "projections")
"""What comparing images with texts needs of it."""


@dataclass(frozen=True)
class TextStates:
    """The text encoder's states before its norm; ``real`` is False at padding."""

    hidden: Float[Tensor, "texts length width"]
    real: Bool[Tensor, "texts length"]


class Subject:
    """A model under evaluation. What it returns is on the CPU, joint states excepted."""

    def __init__(self, model: Evaluated, held_out: HeldOut, batch_size: int) -> None:
        self.model, self.held_out, self.batch_size = model, held_out, batch_size
        self.device = next(model.parameters()).device
        self.probes: dict[str, LinearProbe] = {}
        """Fitted on the features, each by the first task that needs it."""
        self._images: dict[str, tuple[Tensor, Tensor]] = {}
        self._captions: dict[str, Tensor] = {}
        self._codes: dict[str, Tensor] = {}

    @property
    def flava(self) -> Any:
        """The model by the names of a FLAVA's parts: `lacking` tells which of them it has."""
        return self.model

    def twin(self, model: Evaluated) -> "Subject":
        """Another model with the same codebook, whose codes are computed once for both."""
        other = Subject(model, self.held_out, self.batch_size)
        other._codes = self._codes
        return other

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        """The image encoder's [CLS] after the final norm."""
        return self._encode_images(split)[0].numpy()

    def text_features(self, texts: Texts) -> Float[np.ndarray, "texts width"]:
        """The text encoder's [CLS], or CLIP's end of text, after the final norm."""
        encoder = self.flava.text_encoder

        def encode(ids: Tensor, real: Tensor) -> Tensor:
            hidden = encoder(ids, real)
            ours = at_end(hidden, ids) if isinstance(self.model, Clip) else hidden[:, 0]
            return encoder.norm(ours).float()

        return self._encode(texts, encode).numpy()

    def image_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space."""
        return self._encode_images(split)[1]

    def caption_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the canonical captions."""
        if split not in self._captions:
            self._captions[split] = self._embed(self.held_out.pairs(split).captions)
        return self._captions[split]

    def embed(self, texts: list[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of any texts."""
        return self._embed(Texts(texts, texts, self.model.config))

    def _embed(self, texts: Texts) -> Float[Tensor, "texts projection"]:
        return self._encode(texts, self.flava.encode_text)

    def codes(self, split: str) -> Int[Tensor, "images rows columns"]:
        """The codebook's codes of every patch."""
        if split not in self._codes:
            batches = self.held_out.pairs(split).codebook_pixels.split(self.batch_size)
            codebook = self.flava.codebook
            self._codes[split] = torch.cat(
                [codebook.codes(b.to(self.device)).cpu() for b in batches]
            )
        return self._codes[split]

    def image_states(
        self,
        pixels: Float[Tensor, "images 3 h w"],
        selected: Bool[Tensor, "images rows columns"] | None = None,
    ) -> Float[Tensor, "images tokens width"]:
        """The image encoder's states before its norm, hiding the selected patches."""
        return torch.cat(
            [
                self.flava.image_encoder(
                    pixels[rows].to(self.device),
                    None if selected is None else selected[rows].to(self.device),
                ).cpu()
                for rows in torch.arange(len(pixels)).split(self.batch_size)
            ]
        )

    def text_states(
        self, texts: Texts, selected: Bool[Tensor, "texts length"] | None = None
    ) -> TextStates:
        """The text encoder's states, with [MASK] at the selected tokens."""
        ids = texts.ids if selected is None else texts.ids.masked_fill(selected, tokenizer().mask)
        width = self.flava.config.text.width
        hidden = torch.zeros(*ids.shape, width)
        for rows, length in self._by_length(texts.real):
            on_device = ids[rows, :length].to(self.device)
            states = self.flava.text_encoder(on_device, texts.real[rows, :length])
            hidden[rows, :length] = states.float().cpu()
        return TextStates(hidden, texts.real)

    def joint_states(
        self,
        images: Float[Tensor, "images image_tokens width"],
        texts: TextStates,
        image_rows: Int[Tensor, " pairs"],
        text_rows: Int[Tensor, " pairs"],
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch tokens joint"]]]:
        """The multimodal states of pairs of rows, as (which of the pairs, their states)."""
        for pairs, length in self._by_length(texts.real[text_rows]):
            rows = text_rows[pairs]
            yield (
                pairs,
                self.flava.multimodal(
                    images[image_rows[pairs]].to(self.device),
                    texts.hidden[rows, :length].to(self.device),
                    texts.real[rows, :length],
                ),
            )

    def _encode_images(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._images:
            model, features, embeddings = self.flava, [], []
            for pixels in self.held_out.pairs(split).pixels.split(self.batch_size):
                hidden = model.image_encoder.cls(pixels.to(self.device))
                features.append(model.image_encoder.norm(hidden[:, 0]).float().cpu())
                if "projections" not in lacking(model):
                    embeddings.append(model.project_image(hidden).cpu())
            self._images[split] = torch.cat(features), torch.cat(embeddings or [torch.empty(0, 0)])
        return self._images[split]

    def _encode(
        self, texts: Texts, encode: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "texts width"]:
        """(ids, real) -> a vector for each text, of all texts in their order."""
        batches = list(self._by_length(texts.real))
        found = [
            encode(texts.ids[rows, :length].to(self.device), texts.real[rows, :length]).cpu()
            for rows, length in batches
        ]
        return torch.cat(found)[torch.cat([rows for rows, _ in batches]).argsort()]

    def _by_length(
        self, real: Bool[Tensor, "texts length"]
    ) -> Iterator[tuple[Int[Tensor, " batch"], int]]:
        """Batches of rows from short texts to long, so that little padding is encoded."""
        lengths = real.sum(dim=1)
        for rows in lengths.argsort().split(self.batch_size):
            yield rows, int(lengths[rows].max())


def lacking(model: Evaluated) -> frozenset[str]:
    """Of what tasks need, the parts that the model has not, or at initial values only."""
    match model:
        case Flava():
            return model.absent
        case Clip():
            return FLAVAS_OWN
        case MaskedImage():
            return PARTS - {"image_encoder", "mim_head", "codebook.encoder", "codebook.decoder"}
        case MaskedText():
            return PARTS - {"text_encoder", "mlm_head"}
        case Dino():
            return PARTS - {"image_encoder"}


class PixelComponents:
    """The baseline of the linear probe: as many principal components of the pixels."""

    def __init__(self, held_out: HeldOut, fitted_on: str, components: int) -> None:
        self.held_out = held_out
        self.probes: dict[str, LinearProbe] = {}
        self.pca = pca_of_pixels(self._pixels(fitted_on), components, held_out.seed)

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        return self.pca.transform(self._pixels(split))

    def _pixels(self, split: str) -> Float[np.ndarray, "images pixels"]:
        return self.held_out.pairs(split).pixels.flatten(1).numpy()


@contextmanager
def evaluating(model: nn.Module, precision: Precision) -> Iterator[None]:
    """No gradients and no dropout within; the model's mode is as before afterwards."""
    was_training, device = model.training, next(model.parameters()).device.type
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device, precision.dtype, enabled=precision is not Precision.FP32),
        ):
            yield
    finally:
        model.train(was_training)

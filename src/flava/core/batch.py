"""Batches: a frozen dataclass for each kind. The data makes them, the objectives read them.

The type of a batch selects its losses, so every field is always set and is always used.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Kind = Literal["images", "text", "pairs"]
"""The modality of a batch, a model or a data set."""

LOGIT_LAPLACE_EPS = 0.1
"""Margin of the dVAE's pixels, which are in [0.1, 0.9] (Ramesh et al. 2021, appendix A.3)."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images, for masked image modelling.

    ``pixels`` are normalised for the image encoder. ``codebook_pixels`` are the input of the dVAE:
    ``map_pixels`` of values in [0, 1], with 8 x 8 pixels for each patch of ``pixels``.
    ``patch_mask`` is True at the patches that are masked and to be predicted. ``keys`` identify the
    samples in error messages.
    """

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    pixels: Float[Tensor, "batch 3 height width"]
    codebook_pixels: Float[Tensor, "batch 3 codebook_height codebook_width"]
    patch_mask: Bool[Tensor, "batch rows columns"]


@dataclass(frozen=True, kw_only=True)
class CodedImageBatch:
    """As `ImageBatch`, with the dVAE's codes of the patches in place of its input."""

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    pixels: Float[Tensor, "batch 3 height width"]
    codes: Int[Tensor, "batch rows columns"]
    patch_mask: Bool[Tensor, "batch rows columns"]


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """Several crops of each image: DINO's multi-crop.

    ``global_crops`` show a large part of an image, ``local_crops`` a small part with fewer pixels.
    There may be no local crops. Both are normalised for the image encoder. Index i of the second
    dimension is the same image in every crop.
    """

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    global_crops: Float[Tensor, "global batch 3 height width"]
    local_crops: Float[Tensor, "local batch 3 local_height local_width"]


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Texts, padded to the longest of the batch, for masked language modelling.

    ``attention_mask`` is False at padding. ``token_mask`` is True at the tokens to be predicted.
    ``input_ids`` has their original ids, ``input_ids_masked`` their replacements ([MASK], a random
    token or the original).
    """

    kind: ClassVar[Kind] = "text"
    keys: tuple[str, ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    input_ids_masked: Int[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Images with texts; ``matched`` is False where the text was swapped for another image's."""

    kind: ClassVar[Kind] = "pairs"
    image: ImageBatch | CodedImageBatch
    text: TextBatch
    matched: Bool[Tensor, " batch"]

    @property
    def keys(self) -> tuple[str, ...]:
        return self.image.keys


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """Unmasked images, normalised for the image encoder."""

    kind: ClassVar[Kind] = "images"
    pixels: Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    """Unmasked texts, padded to the longest; ``attention_mask`` is False at padding."""

    kind: ClassVar[Kind] = "text"
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """Unmasked images with their texts."""

    kind: ClassVar[Kind] = "pairs"
    image: ImageInputs
    text: TextInputs


Inputs = ImageInputs | TextInputs | PairInputs
"""Unmasked inputs of a model."""


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Inputs with a class index each."""

    keys: tuple[str, ...]
    inputs: Inputs
    labels: Int[Tensor, " batch"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """Inputs with a score each, for regression."""

    keys: tuple[str, ...]
    inputs: Inputs
    scores: Float[Tensor, " batch"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


@dataclass(frozen=True, kw_only=True)
class AnsweredBatch:
    """Inputs with a soft target in [0, 1] for each class; several classes may be right (VQA)."""

    keys: tuple[str, ...]
    inputs: Inputs
    answers: Float[Tensor, "batch classes"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


TargetBatch = LabelledBatch | ScoredBatch | AnsweredBatch
"""Inputs with targets, for fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class WholePairBatch:
    """Unmasked pairs that all match, for the contrastive loss only."""

    kind: ClassVar[Kind] = "pairs"
    keys: tuple[str, ...]
    inputs: PairInputs


Batch = (
    ImageBatch | CodedImageBatch | CropBatch | TextBatch | PairBatch | WholePairBatch | TargetBatch
)
AnyBatch = TypeVar("AnyBatch", bound=Batch | Inputs)


def map_tensors(batch: AnyBatch, function: Callable[[Tensor], Tensor]) -> AnyBatch:
    """The same batch with ``function`` applied to each of its tensors."""

    def new(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        return map_tensors(value, function) if isinstance(value, Batch | Inputs) else value

    return type(batch)(**{f.name: new(getattr(batch, f.name)) for f in fields(batch)})


def to_device(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """The same batch with its tensors on ``device``, except for boolean masks.

    The shapes of packed tensors depend on masks. With masks on the host, these shapes are known
    without waiting for the device.
    """
    return map_tensors(
        batch, lambda each: each if each.dtype == torch.bool else each.to(device, non_blocking=True)
    )


def map_pixels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map pixels in [0, 1] to the dVAE's range [0.1, 0.9]: 0.8 x + 0.1."""
    return (1 - 2 * LOGIT_LAPLACE_EPS) * pixels + LOGIT_LAPLACE_EPS


def unmap_pixels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of ``map_pixels``, clamped to [0, 1]."""
    return ((pixels - LOGIT_LAPLACE_EPS) / (1 - 2 * LOGIT_LAPLACE_EPS)).clamp(0, 1)

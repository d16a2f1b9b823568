"""What travels from the data to the objectives: one frozen type for each kind of batch.

The type of a batch selects its losses, so no field is optional and none is there "for others".
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Kind = Literal["images", "text", "pairs"]
"""What a batch, a model or a data set is about."""

LOGIT_LAPLACE_EPS = 0.1
"""DALL-E's margin: the dVAE sees pixels in [0.1, 0.9] (Ramesh et al. 2021, appendix A.3)."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images alone.

    ``pixels`` are normalised for the image encoder. ``codebook_pixels`` are what the dVAE sees:
    ``map_pixels`` of [0, 1], eight pixels a side for each patch of ``pixels``. ``patch_mask`` is
    True at the patches that are hidden and to be predicted. ``keys`` name the samples in errors.
    """

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    pixels: Float[Tensor, "batch 3 height width"]
    codebook_pixels: Float[Tensor, "batch 3 codebook_height codebook_width"]
    patch_mask: Bool[Tensor, "batch rows columns"]


@dataclass(frozen=True, kw_only=True)
class CodedImageBatch:
    """Images alone as in `ImageBatch`, with the dVAE's codes in place of what it sees."""

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    pixels: Float[Tensor, "batch 3 height width"]
    codes: Int[Tensor, "batch rows columns"]
    patch_mask: Bool[Tensor, "batch rows columns"]


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """Images alone, each as several crops: DINO's multi-crop.

    ``global_crops`` show much of an image, ``local_crops`` little of it at fewer pixels; there may
    be none of these. Both are normalised for the image encoder; image i of the batch is i in each
    crop.
    """

    kind: ClassVar[Kind] = "images"
    keys: tuple[str, ...]
    global_crops: Float[Tensor, "global batch 3 height width"]
    local_crops: Float[Tensor, "local batch 3 local_height local_width"]


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """Texts alone, padded to the longest of the batch.

    ``attention_mask`` is False at padding. ``token_mask`` is True at the tokens to be predicted:
    their true ids stand in ``input_ids``, their replacements ([MASK], a random token or the same)
    in ``input_ids_masked``.
    """

    kind: ClassVar[Kind] = "text"
    keys: tuple[str, ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    input_ids_masked: Int[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Images with texts; ``matched`` is False where the text was exchanged for another image's."""

    kind: ClassVar[Kind] = "pairs"
    image: ImageBatch | CodedImageBatch
    text: TextBatch
    matched: Bool[Tensor, " batch"]

    @property
    def keys(self) -> tuple[str, ...]:
        return self.image.keys


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """Whole images, normalised for the image encoder."""

    kind: ClassVar[Kind] = "images"
    pixels: Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    """Whole texts, padded to the longest of the batch; ``attention_mask`` is False at padding."""

    kind: ClassVar[Kind] = "text"
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True, kw_only=True)
class PairInputs:
    """Whole images with whole texts."""

    kind: ClassVar[Kind] = "pairs"
    image: ImageInputs
    text: TextInputs


Inputs = ImageInputs | TextInputs | PairInputs
"""What a model reads when nothing is hidden from it."""


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Inputs with the number of the class that each belongs to."""

    keys: tuple[str, ...]
    inputs: Inputs
    labels: Int[Tensor, " batch"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """Inputs with a number each, to be predicted as it is."""

    keys: tuple[str, ...]
    inputs: Inputs
    scores: Float[Tensor, " batch"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


@dataclass(frozen=True, kw_only=True)
class AnsweredBatch:
    """Inputs with the share in [0, 1] that each class is right, for itself: many may be."""

    keys: tuple[str, ...]
    inputs: Inputs
    answers: Float[Tensor, "batch classes"]

    @property
    def kind(self) -> Kind:
        """The kind of its inputs."""
        return self.inputs.kind


TargetBatch = LabelledBatch | ScoredBatch | AnsweredBatch
"""Inputs with what is to be predicted of them: what fine-tuning trains on."""


@dataclass(frozen=True, kw_only=True)
class WholePairBatch:
    """Whole images with whole texts that all match: for contrast alone."""

    kind: ClassVar[Kind] = "pairs"
    keys: tuple[str, ...]
    inputs: PairInputs


Batch = (
    ImageBatch | CodedImageBatch | CropBatch | TextBatch | PairBatch | WholePairBatch | TargetBatch
)
AnyBatch = TypeVar("AnyBatch", bound=Batch | Inputs)


def map_tensors(batch: AnyBatch, change: Callable[[Tensor], Tensor]) -> AnyBatch:
    """The same batch with each of its tensors changed."""

    def new(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        return map_tensors(value, change) if isinstance(value, Batch | Inputs) else value

    return type(batch)(**{f.name: new(getattr(batch, f.name)) for f in fields(batch)})


def to_device(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """The same batch with its tensors on ``device``, but for the masks.

    Shapes depend on these, and who asks for a shape need not wait for the device.
    """
    return map_tensors(
        batch, lambda each: each if each.dtype == torch.bool else each.to(device, non_blocking=True)
    )


def map_pixels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Pixels in [0, 1] to the dVAE's [0.1, 0.9]: 0.8 x + 0.1."""
    return (1 - 2 * LOGIT_LAPLACE_EPS) * pixels + LOGIT_LAPLACE_EPS


def unmap_pixels(pixels: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The inverse of ``map_pixels``, clamped to [0, 1]."""
    return ((pixels - LOGIT_LAPLACE_EPS) / (1 - 2 * LOGIT_LAPLACE_EPS)).clamp(0, 1)

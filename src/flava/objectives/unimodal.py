"""Masked modelling of one modality: BEiT's of images (MIM) and RoBERTa's of texts (MLM).

Both are cross-entropies over what is hidden. There is no loss on what is seen, and none on whether
two texts follow each other, which RoBERTa found to be of no use (Liu et al. 2019, section 4.2).
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from flava.core.batch import Batch, CodedImageBatch, ImageBatch, TextBatch
from flava.models import (
    Codebook,
    ImageEncoder,
    MaskedHead,
    MaskedImageModel,
    MaskedTextModel,
    TextEncoder,
)
from flava.models.packing import select_masked
from flava.objectives.losses import LossOutput, classification
from flava.objectives.objective import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class MaskedObjectiveConfig(ObjectiveConfig):
    """There are no settings: what is masked is decided by those of the data."""


class MaskedObjective:
    """A batch of the model's kind -> its one loss, ``mim`` or ``mlm``."""

    def __init__(self, model: MaskedImageModel | MaskedTextModel) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        match self.model, batch:
            case MaskedImageModel() as model, ImageBatch() | CodedImageBatch():
                term = masked_image(model.image_encoder, model.mim_head, model.codebook, batch)
                return {"mim": term}
            case MaskedTextModel() as model, TextBatch():
                return {"mlm": masked_text(model.text_encoder, model.mlm_head, batch)}
        kind = "images" if isinstance(self.model, MaskedImageModel) else "text"
        raise ValueError(
            f"a {type(self.model).__name__} is trained on {kind} alone, but the data yields a "
            f"{type(batch).__name__}: set data.{kind}, and the other sources to None"
        )

    def after_step(self, step: int) -> None:
        """Nothing is annealed."""


def masked_image(
    encoder: ImageEncoder,
    head: MaskedHead,
    codebook: Codebook,
    batch: ImageBatch | CodedImageBatch,
) -> LossOutput:
    """MIM: the codes of the hidden patches, from the image states after the final norm."""
    hidden = functional.pad(batch.patch_mask.flatten(1), (1, 0))  # [CLS] is not hidden
    states = select_masked(encoder(batch.pixels, batch.patch_mask, hidden), hidden)
    logits = head(encoder.norm(states))
    return classification(logits, codes_of(codebook, batch, batch.patch_mask))


def codes_of(
    codebook: Codebook,
    batch: ImageBatch | CodedImageBatch,
    patch_mask: Bool[Tensor, "batch rows columns"],
) -> Int[Tensor, " selected"]:
    """The codes of the selected patches: those that came with the images, or the codebook's."""
    if isinstance(batch, CodedImageBatch):
        return select_masked(batch.codes, patch_mask)
    return codebook.codes_at(batch.codebook_pixels, patch_mask)


def masked_text(encoder: TextEncoder, head: MaskedHead, batch: TextBatch) -> LossOutput:
    """MLM: the ids of the hidden tokens, from the text states after the final norm."""
    states = select_masked(
        encoder(batch.input_ids_masked, batch.attention_mask, batch.token_mask), batch.token_mask
    )
    return classification(
        head(encoder.norm(states)), select_masked(batch.input_ids, batch.token_mask)
    )

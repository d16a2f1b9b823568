"""Masked modelling of one modality: of images as in BEiT (MIM), of texts as in RoBERTa (MLM).

Both losses are cross-entropies over the masked patches or tokens. There is no next sentence
prediction, which RoBERTa found to be of no use (Liu et al. 2019, section 4.2).
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
    """There are no settings: those of the data decide what is masked."""


class MaskedObjective:
    """A batch of the model's kind -> its one loss, ``mim`` or ``mlm``."""

    def __init__(self, model: MaskedImageModel | MaskedTextModel) -> None:
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        match self.model, batch:
            case MaskedImageModel() as model, ImageBatch() | CodedImageBatch():
                output = masked_image(model.image_encoder, model.mim_head, model.codebook, batch)
                return {"mim": output}
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
    """MIM: predict the codes of the masked patches from the image states after the final norm."""
    masked = functional.pad(batch.patch_mask.flatten(1), (1, 0))  # [CLS] is not masked
    states = select_masked(encoder(batch.pixels, batch.patch_mask, masked), masked)
    logits = head(encoder.norm(states))
    return classification(logits, codes_of(codebook, batch, batch.patch_mask))


def codes_of(
    codebook: Codebook,
    batch: ImageBatch | CodedImageBatch,
    patch_mask: Bool[Tensor, "batch rows columns"],
) -> Int[Tensor, " selected"]:
    """The codes of the selected patches: stored with the images, or computed by the codebook."""
    if isinstance(batch, CodedImageBatch):
        return select_masked(batch.codes, patch_mask)
    return codebook.codes_at(batch.codebook_pixels, patch_mask)


def masked_text(encoder: TextEncoder, head: MaskedHead, batch: TextBatch) -> LossOutput:
    """MLM: predict the ids of the masked tokens from the text states after the final norm."""
    states = select_masked(
        encoder(batch.input_ids_masked, batch.attention_mask, batch.token_mask), batch.token_mask
    )
    return classification(
        head(encoder.norm(states)), select_masked(batch.input_ids, batch.token_mask)
    )

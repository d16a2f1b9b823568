"""FLAVA's five objectives: the type of the batch selects which of them apply (section 3.2).

=============  =========  =====================================================================
loss           batch      what is predicted
=============  =========  =====================================================================
``gc``         pairs      which text belongs to which image, from the unmasked encoders
``mmm_image``  pairs      the dVAE codes of hidden patches, from the multimodal states
``mmm_text``   pairs      the ids of hidden tokens, from the multimodal states
``itm``        pairs      whether image and text belong together, from the multimodal [CLS]
``mim``        images     the dVAE codes of hidden patches, from the image states
``mlm``        text       the ids of hidden tokens, from the text states
=============  =========  =====================================================================

Of whole pairs, in which nothing is hidden, ``gc`` is the only loss (columns 3 to 6 of Table C.1).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from flava.batch import (
    AnsweredBatch,
    Batch,
    CropBatch,
    ImageBatch,
    LabelledBatch,
    PairBatch,
    ScoredBatch,
    TextBatch,
    WholePairBatch,
)
from flava.model import MAX_LOGIT_SCALE, Flava
from flava.objectives.clip import ContrastConfig, contrast
from flava.objectives.losses import Term, classification, contrastive
from flava.objectives.masked import masked_image, masked_text


@dataclass(frozen=True, kw_only=True)
class FlavaObjectiveConfig(ContrastConfig):
    """What of the objectives can be chosen."""


class FlavaObjective:
    """A batch -> its named losses. Their plain sum is what the paper minimises."""

    def __init__(self, config: FlavaObjectiveConfig, model: Flava) -> None:
        self.config = config
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, Term]:
        match batch:
            case PairBatch():
                return self.pairs(batch)
            case WholePairBatch():
                return {"gc": contrast(self.model, batch.inputs, self.config)}
            case ImageBatch():
                encoder, head = self.model.image_encoder, self.model.mim_head
                return {"mim": masked_image(encoder, head, self.model.codebook, batch)}
            case TextBatch():
                return {"mlm": masked_text(self.model.text_encoder, self.model.mlm_head, batch)}
            case CropBatch():
                raise ValueError("FLAVA reads one crop of an image: set data.crops to None")
            case LabelledBatch() | ScoredBatch() | AnsweredBatch():
                raise ValueError("pretraining reads no labels: fine-tune with `flava finetune`")

    def after_step(self, step: int) -> None:  # noqa: ARG002
        """Keep the temperature within the published bounds."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def pairs(self, batch: PairBatch) -> dict[str, Term]:
        # With no matched pair at all, the published code takes every pair for matched.
        rows = batch.matched | ~batch.matched.any()
        return {"gc": self.contrast(batch, rows), **self.multimodal(batch, rows)}

    def contrast(self, batch: PairBatch, rows: Bool[Tensor, " batch"]) -> Term:
        model = self.model
        return contrastive(
            model.encode_image(batch.image.pixels),
            model.encode_text(batch.text.ids, batch.text.real),
            model.logit_scale,
            rows,
            self.config.gather,
            self.config.workers,
        )

    def multimodal(self, batch: PairBatch, rows: Bool[Tensor, " batch"]) -> dict[str, Term]:
        """The three losses of the masked pass."""
        model, image, text = self.model, batch.image, batch.text
        image_states = model.image_encoder(image.pixels, image.selected)
        text_states = model.text_encoder(text.masked_ids, text.real)
        states = model.multimodal(image_states, text_states, text.real)
        patches = states[:, 2 : 1 + image_states.shape[1]]
        tokens = states[:, 1 + image_states.shape[1] :]
        # Of a mismatched pair neither side can be expected to help with the other.
        hidden_patches = image.selected & rows[:, None, None]
        hidden_tokens = text.selected & rows[:, None]
        codes = model.codebook.codes(image.codebook_pixels)
        return {
            "mmm_image": classification(
                model.mmm_image_head(patches[hidden_patches.flatten(1)]), codes[hidden_patches]
            ),
            "mmm_text": classification(
                model.mmm_text_head(tokens[hidden_tokens]), text.ids[hidden_tokens]
            ),
            "itm": classification(model.itm_head(states), batch.matched.long()),
        }

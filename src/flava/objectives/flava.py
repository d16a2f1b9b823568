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
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flava.core.batch import (
    AnsweredBatch,
    Batch,
    CodedImageBatch,
    CropBatch,
    ImageBatch,
    LabelledBatch,
    PairBatch,
    ScoredBatch,
    TextBatch,
    WholePairBatch,
)
from flava.models import MAX_LOGIT_SCALE, Flava
from flava.models.packing import select_masked
from flava.models.transformer import cls_only
from flava.objectives.clip import ContrastConfig, contrast
from flava.objectives.losses import LossOutput, classification, contrastive, matched_rows
from flava.objectives.unimodal import codes_of, masked_image, masked_text


@dataclass(frozen=True, kw_only=True)
class FlavaObjectiveConfig(ContrastConfig):
    """Settings of FLAVA's objectives."""


@dataclass(frozen=True, kw_only=True)
class EncoderStates:
    """States of the encoders before their norms: of whole pairs [CLS] alone, of masked ones all."""

    image: Float[Tensor, "batch image_tokens image_width"]
    text: Float[Tensor, "batch text_tokens text_width"]
    masked_image: Float[Tensor, "batch image_tokens image_width"]
    masked_text: Float[Tensor, "batch text_tokens text_width"]


def both_passes(model: Flava, batch: PairBatch) -> EncoderStates:
    """Whole and masked pairs through the encoders, as one batch of twice the size.

    Each weight is read once in place of twice (and gathered once, where it is sharded), and its
    gradient comes from one product.
    """
    image, text = batch.image, batch.text
    patch_mask = torch.cat([torch.zeros_like(image.patch_mask), image.patch_mask])
    tokens = patch_mask.new_ones(len(image.pixels), 1 + image.patch_mask[0].numel())
    images = model.image_encoder(
        image.pixels.repeat(2, 1, 1, 1), patch_mask, read_after_both(tokens)
    )
    texts = model.text_encoder(
        torch.cat([text.input_ids, text.input_ids_masked]),
        text.attention_mask.repeat(2, 1),
        read_after_both(text.attention_mask),
    )
    (image_states, masked_image), (text_states, masked_text) = images.chunk(2), texts.chunk(2)
    return EncoderStates(
        image=image_states, text=text_states, masked_image=masked_image, masked_text=masked_text
    )


def read_after_both(attention_mask: Bool[Tensor, "batch length"]) -> Bool[Tensor, "twice length"]:
    """[CLS] of the whole inputs, all there is of the masked ones."""
    return torch.cat([cls_only(len(attention_mask), attention_mask.shape[1]), attention_mask])


class FlavaObjective:
    """A batch -> its named losses. Their plain sum is what the paper minimises."""

    def __init__(self, config: FlavaObjectiveConfig, model: Flava) -> None:
        self.config = config
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        match batch:
            case PairBatch():
                return self.pairs(batch)
            case WholePairBatch():
                return {"gc": contrast(self.model, batch.inputs, self.config)}
            case ImageBatch() | CodedImageBatch():
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

    def pairs(self, batch: PairBatch) -> dict[str, LossOutput]:
        rows = matched_rows(batch.matched)
        hidden = both_passes(self.model, batch)
        masked = self.multimodal(batch, hidden.masked_image, hidden.masked_text, rows)
        return {"gc": self.contrast(hidden, rows), **masked}

    def others(
        self, batch: PairBatch | WholePairBatch, rows: Bool[Tensor, " batch"]
    ) -> dict[str, LossOutput]:
        """The losses of pairs but for contrast, where that is taken over several batches."""
        if isinstance(batch, WholePairBatch):
            return {}
        image = self.model.image_encoder(batch.image.pixels, batch.image.patch_mask)
        text = self.model.text_encoder(batch.text.input_ids_masked, batch.text.attention_mask)
        return self.multimodal(batch, image, text, rows)

    def contrast(self, hidden: EncoderStates, rows: Bool[Tensor, " batch"]) -> LossOutput:
        model = self.model
        return contrastive(
            model.project_image(hidden.image),
            model.project_text(hidden.text),
            model.logit_scale,
            rows,
            self.config.gather,
            self.config.ranks,
        )

    def multimodal(
        self,
        batch: PairBatch,
        image_states: Float[Tensor, "batch image_tokens image_width"],
        text_states: Float[Tensor, "batch text_tokens text_width"],
        rows: Bool[Tensor, " batch"],
    ) -> dict[str, LossOutput]:
        """The three losses of the masked pass."""
        model, image, text = self.model, batch.image, batch.text
        # Of a mismatched pair neither side can be expected to help with the other.
        hidden_patches = image.patch_mask & rows[:, None, None]
        hidden_tokens = text.token_mask & rows[:, None]
        # Their places behind [CLS_M] and the image's [CLS].
        places, length = image.patch_mask[0].numel(), text.attention_mask.shape[1]
        patches = functional.pad(hidden_patches.flatten(1), (2, length))
        tokens = functional.pad(hidden_tokens, (2 + places, 0))
        output_positions = patches | tokens
        output_positions[:, 0] = True
        states = model.multimodal(image_states, text_states, text.attention_mask, output_positions)
        codes = codes_of(model.codebook, image, hidden_patches)
        labels = batch.matched.to(states.device, non_blocking=True).long()
        return {
            "mmm_image": classification(
                model.mmm_image_head(select_masked(states, patches)), codes
            ),
            "mmm_text": classification(
                model.mmm_text_head(select_masked(states, tokens)),
                select_masked(text.input_ids, hidden_tokens),
            ),
            "itm": classification(model.itm_head(states), labels),
        }

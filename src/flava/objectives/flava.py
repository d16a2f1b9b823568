"""FLAVA's five objectives: the type of the batch selects which of them apply (section 3.2).

=============  =========  =====================================================================
loss           batch      what is predicted
=============  =========  =====================================================================
``gc``         pairs      which text belongs to which image, from unmasked inputs
``mmm_image``  pairs      the dVAE codes of masked patches, from the multimodal states
``mmm_text``   pairs      the ids of masked tokens, from the multimodal states
``itm``        pairs      whether image and text belong together, from the multimodal [CLS]
``mim``        images     the dVAE codes of masked patches, from the image states
``mlm``        text       the ids of masked tokens, from the text states
=============  =========  =====================================================================

Unmasked pairs have ``gc`` as their only loss (columns 3 to 6 of Table C.1).
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
    """States of the image and text encoders before their final norms.

    Of unmasked inputs only the state of [CLS] is computed, of masked inputs all states.
    """

    image: Float[Tensor, "batch image_tokens image_width"]
    text: Float[Tensor, "batch text_tokens text_width"]
    masked_image: Float[Tensor, "batch image_tokens image_width"]
    masked_text: Float[Tensor, "batch text_tokens text_width"]


def _encode_pairs(model: Flava, batch: PairBatch) -> EncoderStates:
    """Encode the unmasked and the masked pairs, as one batch of twice the size.

    So each weight is read once instead of twice (and gathered once if it is sharded), and its
    gradient is one matrix product.
    """
    image, text = batch.image, batch.text
    patch_mask = torch.cat([torch.zeros_like(image.patch_mask), image.patch_mask])
    tokens = patch_mask.new_ones(len(image.pixels), 1 + image.patch_mask[0].numel())
    images = model.image_encoder(
        image.pixels.repeat(2, 1, 1, 1), patch_mask, _output_positions_of(tokens)
    )
    texts = model.text_encoder(
        torch.cat([text.input_ids, text.input_ids_masked]),
        text.attention_mask.repeat(2, 1),
        _output_positions_of(text.attention_mask),
    )
    (image_states, masked_image), (text_states, masked_text) = images.chunk(2), texts.chunk(2)
    return EncoderStates(
        image=image_states, text=text_states, masked_image=masked_image, masked_text=masked_text
    )


def _output_positions_of(
    attention_mask: Bool[Tensor, "batch length"],
) -> Bool[Tensor, "twice length"]:
    """The states to compute: [CLS] of the unmasked inputs, all tokens of the masked inputs."""
    return torch.cat([cls_only(len(attention_mask), attention_mask.shape[1]), attention_mask])


class FlavaObjective:
    """A batch -> its named losses. Their plain sum is what the paper minimises."""

    def __init__(self, config: FlavaObjectiveConfig, model: Flava) -> None:
        self.config = config
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        match batch:
            case PairBatch():
                return self.pair_losses(batch)
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

    def pair_losses(self, batch: PairBatch) -> dict[str, LossOutput]:
        """The losses of masked pairs."""
        model, config = self.model, self.config
        rows = matched_rows(batch.matched)
        states = _encode_pairs(model, batch)
        multimodal = self.multimodal_losses(batch, states.masked_image, states.masked_text, rows)
        contrast_output = contrastive(
            model.project_image(states.image),
            model.project_text(states.text),
            model.logit_scale,
            rows,
            config.gather,
            config.ranks,
        )
        return {"gc": contrast_output, **multimodal}

    def other_losses(
        self, batch: PairBatch | WholePairBatch, rows: Bool[Tensor, " batch"]
    ) -> dict[str, LossOutput]:
        """The losses besides contrast, for contrast over several batches (`accumulation`)."""
        if isinstance(batch, WholePairBatch):
            return {}
        image = self.model.image_encoder(batch.image.pixels, batch.image.patch_mask)
        text = self.model.text_encoder(batch.text.input_ids_masked, batch.text.attention_mask)
        return self.multimodal_losses(batch, image, text, rows)

    def multimodal_losses(
        self,
        batch: PairBatch,
        image_states: Float[Tensor, "batch image_tokens image_width"],
        text_states: Float[Tensor, "batch text_tokens text_width"],
        rows: Bool[Tensor, " batch"],
    ) -> dict[str, LossOutput]:
        """The three losses of the multimodal encoder on masked pairs."""
        model, image, text = self.model, batch.image, batch.text
        # Image and text of a mismatched pair cannot help to predict each other.
        patch_mask = image.patch_mask & rows[:, None, None]
        token_mask = text.token_mask & rows[:, None]
        # The multimodal states are [CLS_M], the image's [CLS], patches, text.
        patch_count, length = image.patch_mask[0].numel(), text.attention_mask.shape[1]
        patches = functional.pad(patch_mask.flatten(1), (2, length))
        tokens = functional.pad(token_mask, (2 + patch_count, 0))
        output_positions = patches | tokens
        output_positions[:, 0] = True
        states = model.multimodal(image_states, text_states, text.attention_mask, output_positions)
        codes = codes_of(model.codebook, image, patch_mask)
        labels = batch.matched.to(states.device, non_blocking=True).long()
        return {
            "mmm_image": classification(
                model.mmm_image_head(select_masked(states, patches)), codes
            ),
            "mmm_text": classification(
                model.mmm_text_head(select_masked(states, tokens)),
                select_masked(text.input_ids, token_mask),
            ),
            "itm": classification(model.itm_head(states), labels),
        }

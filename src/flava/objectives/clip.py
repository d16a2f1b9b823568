"""CLIP's contrastive objective: find the text of each image, and the image of each text.

Radford et al. 2021, figure 3.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from pydantic import PositiveInt
from torch import Tensor

from flava.core.batch import Batch, PairBatch, PairInputs, WholePairBatch
from flava.core.distributed import Gather
from flava.models import Clip, Flava
from flava.objectives.losses import LossOutput, contrastive
from flava.objectives.objective import ObjectiveConfig

MAX_LOGIT_SCALE = math.log(100)
"""Logits are never scaled by more than 100 (section 2.5); nor by less than 1 (open_clip)."""


@dataclass(frozen=True, kw_only=True)
class ContrastConfig(ObjectiveConfig):
    """Settings of the contrastive loss."""

    gather: Gather = Gather.GLOBAL
    """Whether the contrastive gradient reaches the features of all ranks (global), as in the paper,
    or only the rank's own features (local)."""
    ranks: PositiveInt = 1
    """Number of ranks that each process simulates, so that a few processes compute the gradient
    that many ranks would. It makes a difference only if gather is local."""


@dataclass(frozen=True, kw_only=True)
class ClipObjectiveConfig(ContrastConfig):
    """Settings of CLIP's objective."""

    gather: Gather = Gather.LOCAL
    """Whether the contrastive gradient reaches the features of all ranks (global), or only the
    rank's own features (local), as in the paper's baseline and in OpenCLIP at that time."""


class ClipObjective:
    """A batch of whole pairs -> the contrastive loss, named as FLAVA's."""

    def __init__(self, config: ClipObjectiveConfig, model: Clip) -> None:
        self.config = config
        self.model = model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        if not isinstance(batch, WholePairBatch):
            raise ValueError(
                f"CLIP is trained on whole pairs alone, but the data yields a "
                f"{type(batch).__name__}: set data.pairs, and data.mask_pairs to False"
            )
        return {"gc": contrast(self.model, batch.inputs, self.config)}

    def other_losses(
        self,
        batch: PairBatch | WholePairBatch,  # noqa: ARG002
        rows: Bool[Tensor, " batch"],  # noqa: ARG002
    ) -> dict[str, LossOutput]:
        """None: contrast is the only loss."""
        return {}

    def after_step(self, step: int) -> None:  # noqa: ARG002
        """Keep the temperature within the published bounds."""
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def contrast(model: Clip | Flava, pairs: PairInputs, config: ContrastConfig) -> LossOutput:
    """The contrastive loss of pairs that all match."""
    image = model.encode_image(pairs.image.pixels)
    text = model.encode_text(pairs.text.input_ids, pairs.text.attention_mask)
    every = torch.ones(len(image), dtype=torch.bool)
    return contrastive(image, text, model.logit_scale, every, config.gather, config.ranks)

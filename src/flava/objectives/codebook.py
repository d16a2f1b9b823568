"""The objective that trains a codebook: DALL-E's relaxed evidence lower bound.

Ramesh et al. 2021, section 2.1. Codes are sampled by the Gumbel-softmax relaxation at a decreasing
temperature, their prior is uniform, and mapped pixels have logit-Laplace distributions (appendix
A.3).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from flava.core.batch import Batch, ImageBatch
from flava.models import Codebook
from flava.objectives.losses import LossOutput
from flava.objectives.objective import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class CodebookObjectiveConfig(ObjectiveConfig):
    """How temperature and KL weight are annealed; the defaults are DALL-E's (appendix A.2)."""

    final_temperature: float = 1 / 16
    """Final temperature of the Gumbel-softmax relaxation, which starts at 1."""
    temperature_steps: int = 150_000
    """Steps over which the temperature falls, along half a cosine."""
    kl_weight: float = 6.6
    """Final weight of the KL divergence from the uniform prior, which starts at 0."""
    kl_steps: int = 5_000
    """Steps over which the KL weight rises, along half a cosine."""


class CodebookObjective:
    """A batch of images -> reconstruction loss and KL divergence, in nats per pixel channel."""

    def __init__(self, config: CodebookObjectiveConfig, model: Codebook) -> None:
        self.config = config
        self.model = model
        self.after_step(0)

    def after_step(self, step: int) -> None:
        """Set temperature and KL weight for the next step; ``step`` steps have been made."""
        config = self.config
        self.temperature = _anneal(1.0, config.final_temperature, step, config.temperature_steps)
        self.kl_weight = _anneal(0.0, config.kl_weight, step, config.kl_steps)

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        if not isinstance(batch, ImageBatch):
            raise ValueError(
                f"the codebook is trained on images alone, but the data yields a "
                f"{type(batch).__name__}: set data.images, and data.pairs and data.text to None"
            )
        pixels = batch.codebook_pixels
        logits = self.model.encoder(pixels).float()
        relaxed = functional.gumbel_softmax(logits, tau=self.temperature, dim=1)
        statistics = self.model.decoder(relaxed).float()
        channels_per_code = pixels[0].numel() / logits[0, 0].numel()
        return {
            "reconstruction": LossOutput(_logit_laplace(statistics, pixels).mean()),
            "divergence": LossOutput(
                self.kl_weight * _divergence_from_uniform(logits).mean() / channels_per_code
            ),
        }


def _anneal(start: float, end: float, step: int, steps: int) -> float:
    """The value at ``step`` of half a cosine from ``start`` to ``end``, which ends at ``steps``."""
    progress = min(step / steps, 1.0) if steps else 1.0
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _logit_laplace(
    statistics: Float[Tensor, "batch 6 height width"], pixels: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Negative log-likelihood of pixels in (0, 1) whose logits are Laplace: equation 2 of A.3."""
    location, log_scale = statistics.chunk(2, dim=1)
    jacobian = torch.log(pixels * (1 - pixels))
    return (
        (pixels.logit() - location).abs() * (-log_scale).exp() + log_scale + math.log(2) + jacobian
    )


def _divergence_from_uniform(
    logits: Float[Tensor, "batch codes rows columns"],
) -> Float[Tensor, "batch rows columns"]:
    """KL(softmax(logits) || uniform) of each position, in nats."""
    log_probabilities = logits.log_softmax(dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    return math.log(logits.shape[1]) - entropy

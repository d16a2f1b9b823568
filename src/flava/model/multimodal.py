"""The multimodal encoder: both projected state sequences behind a [CLS_M] of its own."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flava.model.transformer import Pooler, Transformer, TransformerConfig, cls_alone


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig(TransformerConfig):
    """Geometry of the multimodal encoder; the default is the paper's, six blocks deep."""

    depth: int = 6


class MultimodalEncoder(Transformer):
    """Projected image and text states -> states before the final norm: [CLS_M], image, text.

    There are no position or type embeddings: the states carry their own from below.
    """

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(
        self,
        image: Float[Tensor, "batch image_tokens hidden"],
        text: Float[Tensor, "batch text_tokens hidden"],
        real: Bool[Tensor, "batch text_tokens"],
        read: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens hidden"]:
        """``read``: see `run_blocks`."""
        states = torch.cat([self.cls_token.expand(len(image), -1, -1), image, text], dim=1)
        always = real.new_ones(len(image), 1 + image.shape[1])
        return self.run_blocks(states, torch.cat([always, real], dim=1), read)

    def cls(
        self,
        image: Float[Tensor, "batch image_tokens hidden"],
        text: Float[Tensor, "batch text_tokens hidden"],
        real: Bool[Tensor, "batch text_tokens"],
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The state of [CLS_M] alone."""
        length = 1 + image.shape[1] + text.shape[1]
        return self(image, text, real, cls_alone(len(image), length))[:, :1]

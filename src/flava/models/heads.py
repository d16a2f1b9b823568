"""The heads of pretraining: for masked tokens and codes, and for image-text matching."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from flava.models.transformer import NORM_EPS, Pooler


class MaskedHead(nn.Module):
    """States of masked positions -> logits over a vocabulary (of tokens or of codes): BERT's head.

    The decoder is not tied to the embedding. Pass only masked positions: the decoder is the largest
    matrix product of the model.
    """

    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder = nn.Linear(width, vocabulary_size)

    def forward(
        self, states: Float[Tensor, "positions width"]
    ) -> Float[Tensor, "positions vocabulary"]:
        return self.decoder(self.norm(functional.gelu(self.dense(states))))


class MatchingHead(nn.Module):
    """Multimodal states -> logits of (mismatched, matched), from [CLS_M] through a pooler."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pooler = Pooler(width)
        self.classifier = nn.Linear(width, 2)

    def forward(self, states: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch 2"]:
        return self.classifier(self.pooler(states))

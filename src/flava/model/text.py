"""The text encoder: BERT's embeddings under the same pre-norm transformer as the images'."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flava.model.transformer import Pooler, Transformer, TransformerConfig, cls_alone


@dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """Geometry of the text encoder; the default is the paper's, with BERT's uncased vocabulary."""

    vocabulary_size: int = 30_522
    """Number of token ids."""
    max_length: int = 512
    """Longest text in tokens, [CLS] and [SEP] included."""

    def mistakes(self, field: str) -> list[str]:
        return super().mistakes(field) + [
            f"{field}.{name} is {value}: use at least {least}"
            for name, value, least in (
                ("vocabulary_size", self.vocabulary_size, 1),
                ("max_length", self.max_length, 2),
            )
            if value < least
        ]


TOKEN_TYPES = 2
"""BERT's two segments. FLAVA uses the first; the second is carried for the published layout."""


class TextEncoder(Transformer):
    """Token ids -> states before the final norm; [CLS] is the first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.width)
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.types = nn.Embedding(TOKEN_TYPES, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(
        self,
        ids: Int[Tensor, "batch length"],
        real: Bool[Tensor, "batch length"],
        read: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length hidden"]:
        """Padding, where ``real`` is False, is not attended to; ``read``: see `run_blocks`.

        Raises:
            ValueError: a text longer than the position embeddings.
        """
        positions = positions_of(ids, self.positions.num_embeddings)
        embedded = self.words(ids) + self.positions(positions) + self.types.weight[0]
        return self.run_blocks(self.embedding_norm(embedded), real, read)

    def cls(
        self, ids: Int[Tensor, "batch length"], real: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The state of [CLS] alone."""
        return self(ids, real, cls_alone(len(ids), ids.shape[1]))[:, :1]


def positions_of(ids: Int[Tensor, "batch length"], longest: int) -> Int[Tensor, " length"]:
    """0, 1, 2, ... to the end of the texts.

    Raises:
        ValueError: texts of more than ``longest`` tokens.
    """
    length = ids.shape[1]
    if length > longest:
        raise ValueError(
            f"a text of {length} tokens is longer than the encoder's max_length {longest}: "
            "truncate it when tokenising"
        )
    return torch.arange(length, device=ids.device)

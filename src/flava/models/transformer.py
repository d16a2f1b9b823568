"""The one transformer that all three encoders are built from: pre-norm, as in ViT."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.models.attention import attend, attend_from, attend_packed, causal_mask
from flava.models.packing import Packing, by_length, unpacked

NORM_EPS = 1e-12
"""LayerNorm's epsilon in FLAVA's published weights, heads included."""


class Activation(Enum):
    """What stands between the two layers of a block's MLP."""

    GELU = "gelu"
    """The exact one, FLAVA's."""
    QUICK_GELU = "quick_gelu"
    """x * sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""

    def __call__(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        return functional.gelu(x) if self is Activation.GELU else x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Geometry of a transformer; the defaults are ViT-B's, the paper's for image and text."""

    width: PositiveInt = 768
    """Size of the hidden states."""
    depth: PositiveInt = 12
    """Number of blocks."""
    heads: PositiveInt = 12
    """Attention heads; must divide the width."""
    mlp_width: PositiveInt = 3072
    """Hidden size of each block's MLP."""
    activation: Activation = Activation.GELU
    """Activation of each block's MLP."""
    norm_eps: PositiveFloat = NORM_EPS
    """Epsilon of every LayerNorm; ViTs elsewhere have 1e-6, CLIP 1e-5."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth (Huang et al., ECCV 2016) in training: how often the last block's branches
    are left out for a sample. The rate rises linearly with depth, from 0 in the first block."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields; see `config_errors`."""
        if self.heads < 1 or self.width % self.heads == 0:
            return []
        return [f"{prefix}heads is {self.heads}, which does not divide {prefix}width {self.width}"]


class Attention(nn.Module):
    """Multi-head self-attention with bias; query, key and value come from one matrix product."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(
        self,
        states: Float[Tensor, "*tokens width"],
        packing: Packing | None,
        mask: Bool[Tensor, "#batch 1 #length length"] | None,
    ) -> Float[Tensor, "*tokens width"]:
        projected = self.heads_of(self.qkv(states), 3)
        if packing is None:
            query, key, value = projected.unbind(2)
            return self.output(attend(query, key, value, mask).flatten(2))
        assert mask is not None
        return self.output(attend_packed(projected, packing, mask).flatten(1))

    def compute_at(
        self,
        states: Float[Tensor, "*tokens width"],
        packing: Packing | None,
        mask: Bool[Tensor, "#batch 1 #length length"] | None,
        output_packing: Packing,
    ) -> Float[Tensor, "outputs width"]:
        """The same for the states of ``output_packing`` alone; the others are attended to only."""
        width = states.shape[-1]
        to_query, to_both = self.qkv.weight.split([width, 2 * width])
        query_bias, both_bias = self.qkv.bias.split([width, 2 * width])
        asked = output_packing.pack(unpacked(states, packing))
        query = self.heads_of(functional.linear(asked, to_query, query_bias), 1).squeeze(1)
        both = self.heads_of(functional.linear(states, to_both, both_bias), 2)
        return self.output(attend_from(query, both, packing, mask, output_packing).flatten(1))

    def heads_of(
        self, projected: Float[Tensor, "*tokens widths"], parts: int
    ) -> Float[Tensor, "*tokens parts heads size"]:
        """Queries, keys, values, or some of them, each head's for itself."""
        return projected.unflatten(-1, (parts, self.heads, -1))


def drop_samples(
    branch: Float[Tensor, "*tokens width"], rate: float, packing: Packing | None
) -> Float[Tensor, "*tokens width"]:
    """Zeros for a random share ``rate`` of the samples, the others scaled to the same expectation.

    A sample is dropped as a whole, all tokens of a packed text alike.
    """
    samples = len(branch) if packing is None else len(packing.kept)
    kept = torch.rand(samples, device=branch.device) >= rate
    scale = kept.to(branch.dtype) / (1 - rate)
    if packing is None:
        return branch * scale[:, None, None]
    return branch * packing.spread(scale)[:, None]


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: TransformerConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm_before = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_after = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.activation = config.activation
        self.mlp_out = nn.Linear(config.mlp_width, config.width)

    def forward(
        self,
        states: Float[Tensor, "*tokens width"],
        packing: Packing | None,
        mask: Bool[Tensor, "#batch 1 #length length"] | None,
        output_packing: Packing | None = None,
    ) -> Float[Tensor, "*computed width"]:
        """``output_packing``: the states to compute, of which the others are keys and values
        alone."""
        normed = self.norm_before(states)
        if output_packing is None:
            branch = self.attention(normed, packing, mask)
        else:
            branch = self.attention.compute_at(normed, packing, mask, output_packing)
            states, packing = output_packing.pack(unpacked(states, packing)), output_packing
        states = states + self.sometimes(branch, packing)
        branch = self.mlp_out(self.activation(self.mlp_in(self.norm_after(states))))
        return states + self.sometimes(branch, packing)

    def sometimes(
        self, branch: Float[Tensor, "*tokens width"], packing: Packing | None
    ) -> Float[Tensor, "*tokens width"]:
        """Stochastic depth, in training alone."""
        if not self.training or self.drop_path == 0:
            return branch  # with no random number drawn
        return drop_samples(branch, self.drop_path, packing)


class Pooler(nn.Module):
    """The first state through a dense layer and tanh, BERT's way.

    Every published encoder carries one though no pretraining loss reads it (only the matching
    head's is trained); it is kept so that checkpoints convert both ways without loss.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch width"]:
        return torch.tanh(self.dense(states[:, 0]))


class Transformer(nn.Module):
    """Blocks; the final ``norm`` is the caller's to apply where it is read.

    The multimodal encoder reads the states *before* the final norm, the losses those after it.
    """

    missing_parts: frozenset[str] = frozenset()
    """Prefixes of parameters that the loaded file did not hold: they are still as at the start."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        last = max(1, config.depth - 1)
        self.blocks = nn.ModuleList(
            Block(config, config.drop_path * index / last) for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def run_blocks(
        self,
        states: Float[Tensor, "batch length width"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        output_positions: Bool[Tensor, "batch length"] | None = None,
        *,
        causal: bool = False,
    ) -> Float[Tensor, "batch length width"]:
        """Hidden states before the final norm.

        Padding, where ``attention_mask`` is False, is not attended to, and costs nothing but within
        the attention itself: what stands there in the result means nothing. Nor does what stands
        where ``output_positions`` is False, if it is given: the last block computes the other
        states alone. ``causal`` states attend to themselves and to those before them.
        """
        if torch.compiler.is_exporting():
            # Packing makes sizes depend on values; a program's must hold for every batch.
            packing = output_packing = None
        else:
            order = None if attention_mask is None else by_length(attention_mask)
            packing = None if attention_mask is None else Packing.of(attention_mask, states, order)
            output_packing = (
                None if output_positions is None else Packing.of(output_positions, states, order)
            )
        mask = build_attention_mask(states, attention_mask, causal)
        states = states if packing is None else packing.pack(states)
        for block in self.blocks[:-1]:
            states = block(states, packing, mask)
        states = self.blocks[-1](states, packing, mask, output_packing)
        return unpacked(states, output_packing or packing)


def cls_only(batch: int, length: int) -> Bool[Tensor, "batch length"]:
    """What `Transformer.run_blocks` is to compute where the first state alone is read."""
    output_positions = torch.zeros(batch, length, dtype=torch.bool)
    output_positions[:, 0] = True
    return output_positions


def build_attention_mask(
    states: Float[Tensor, "batch length width"],
    attention_mask: Bool[Tensor, "batch length"] | None,
    causal: bool,
) -> Bool[Tensor, "#batch 1 #length length"] | None:
    """True where a state (next to last axis) attends to another (last); None if everywhere."""
    mask = None
    if attention_mask is not None:
        mask = attention_mask.to(states.device, non_blocking=True)[:, None, None, :]
    if not causal:
        return mask
    past = causal_mask(states.shape[1], states.device)
    return past if mask is None else mask & past


def blocks_of(module: nn.Module) -> list[Block]:
    """All blocks in it, in order."""
    return [each for each in module.modules() if isinstance(each, Block)]

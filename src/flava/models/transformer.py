"""The transformer that all encoders are built from: pre-norm, as in ViT.

`Transformer.run_blocks` packs its input, so that padding is not computed (see `packing`).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.models.attention import attend, attend_from_outputs, attend_packed, causal_mask
from flava.models.packing import Packing, order_by_length, unpack_if_packed

NORM_EPS = 1e-12
"""LayerNorm's epsilon in FLAVA's published weights, heads included."""


class Activation(Enum):
    """The activation between the two layers of a block's MLP."""

    GELU = "gelu"
    """The exact GELU, as in FLAVA."""
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
    """Number of attention heads; must divide width."""
    mlp_width: PositiveInt = 3072
    """Hidden size of each block's MLP."""
    activation: Activation = Activation.GELU
    """Activation of each block's MLP."""
    norm_eps: PositiveFloat = NORM_EPS
    """Epsilon of every LayerNorm; other ViTs use 1e-6, CLIP 1e-5."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth in training (Huang et al., ECCV 2016): the probability that a residual
    branch of the last block is skipped for a sample. It rises linearly from 0 in the first
    block."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields; see `config_errors`."""
        if self.heads < 1 or self.width % self.heads == 0:
            return []
        return [f"{prefix}heads is {self.heads}, which does not divide {prefix}width {self.width}"]


class Attention(nn.Module):
    """Multi-head self-attention with bias; query, key and value come from one matrix product.

    States are packed if there is a `Packing`; else they are a padded batch.
    """

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
        projected = self.split_heads(self.qkv(states), 3)
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
        """Attention only for the states of ``output_packing``; the others are keys and values."""
        width = states.shape[-1]
        query_weight, key_value_weight = self.qkv.weight.split([width, 2 * width])
        query_bias, key_value_bias = self.qkv.bias.split([width, 2 * width])
        outputs = output_packing.pack(unpack_if_packed(states, packing))
        query = self.split_heads(functional.linear(outputs, query_weight, query_bias), 1).squeeze(1)
        key_value = self.split_heads(functional.linear(states, key_value_weight, key_value_bias), 2)
        attended = attend_from_outputs(query, key_value, packing, mask, output_packing)
        return self.output(attended.flatten(1))

    def split_heads(
        self, projected: Float[Tensor, "*tokens widths"], parts: int
    ) -> Float[Tensor, "*tokens parts heads size"]:
        """Split the last dimension into ``parts`` (such as query, key and value) and heads."""
        return projected.unflatten(-1, (parts, self.heads, -1))


def _drop_samples(
    branch: Float[Tensor, "*tokens width"], rate: float, packing: Packing | None
) -> Float[Tensor, "*tokens width"]:
    """Set a random share ``rate`` of the samples to zero, and scale the others to keep the mean.

    All tokens of a sample are kept or dropped together.
    """
    samples = len(branch) if packing is None else len(packing.mask)
    kept = torch.rand(samples, device=branch.device) >= rate
    scale = kept.to(branch.dtype) / (1 - rate)
    if packing is None:
        return branch * scale[:, None, None]
    return branch * packing.repeat_per_token(scale)[:, None]


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
        """The states after the block.

        With ``output_packing`` only the states that it packs are computed; all others are read as
        keys and values. The result is then packed by it.
        """
        normed = self.norm_before(states)
        if output_packing is None:
            branch = self.attention(normed, packing, mask)
        else:
            branch = self.attention.compute_at(normed, packing, mask, output_packing)
            states = output_packing.pack(unpack_if_packed(states, packing))
            packing = output_packing
        states = states + self.apply_drop_path(branch, packing)
        branch = self.mlp_out(self.activation(self.mlp_in(self.norm_after(states))))
        return states + self.apply_drop_path(branch, packing)

    def apply_drop_path(
        self, branch: Float[Tensor, "*tokens width"], packing: Packing | None
    ) -> Float[Tensor, "*tokens width"]:
        """Stochastic depth, only in training."""
        if not self.training or self.drop_path == 0:
            return branch  # without drawing a random number
        return _drop_samples(branch, self.drop_path, packing)


class Pooler(nn.Module):
    """BERT's pooler: a linear layer and tanh on the first state.

    Every published encoder has one, though only that of the matching head is trained. It is kept so
    that checkpoints can be converted in both directions without loss.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch width"]:
        return torch.tanh(self.dense(states[:, 0]))


class Transformer(nn.Module):
    """The blocks and the final ``norm``, which callers apply themselves.

    The multimodal encoder reads the image and text states *before* their final norms. The losses
    read states after the final norm.
    """

    missing_parts: frozenset[str] = frozenset()
    """Prefixes of parameters that the loaded file did not hold: they have initial values."""

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

        Args:
            states: The embedded tokens.
            attention_mask: False at padding, which is neither attended to nor computed: its states
                in the result are meaningless.
            output_positions: True at the states that the caller reads. The last block computes only
                these; all others in the result are meaningless. By default all are computed.
            causal: Whether each state attends only to itself and to those before it.
        """
        if torch.compiler.is_exporting():
            # With packing, shapes depend on values. Exported programs cannot do that.
            packing = output_packing = None
        else:
            order = None if attention_mask is None else order_by_length(attention_mask)
            packing = None if attention_mask is None else Packing.of(attention_mask, states, order)
            output_packing = (
                None if output_positions is None else Packing.of(output_positions, states, order)
            )
        mask = _build_attention_mask(states, attention_mask, causal)
        states = states if packing is None else packing.pack(states)
        for block in self.blocks[:-1]:
            states = block(states, packing, mask)
        states = self.blocks[-1](states, packing, mask, output_packing)
        return unpack_if_packed(states, output_packing or packing)


def cls_only(batch: int, length: int) -> Bool[Tensor, "batch length"]:
    """The ``output_positions`` of `Transformer.run_blocks` if only the first state is read."""
    output_positions = torch.zeros(batch, length, dtype=torch.bool)
    output_positions[:, 0] = True
    return output_positions


def _build_attention_mask(
    states: Float[Tensor, "batch length width"],
    attention_mask: Bool[Tensor, "batch length"] | None,
    causal: bool,
) -> Bool[Tensor, "#batch 1 #length length"] | None:
    """True where a state (second to last axis) attends to another (last axis); None: everywhere."""
    mask = None
    if attention_mask is not None:
        mask = attention_mask.to(states.device, non_blocking=True)[:, None, None, :]
    if not causal:
        return mask
    past_mask = causal_mask(states.shape[1], states.device)
    return past_mask if mask is None else mask & past_mask


def blocks_of(module: nn.Module) -> list[Block]:
    """All transformer blocks of a module, in order."""
    return [each for each in module.modules() if isinstance(each, Block)]

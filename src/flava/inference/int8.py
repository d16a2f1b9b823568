"""The precisions of inference, among them linear layers in 8-bit integers for CPUs.

Int8 is dynamic quantization: weights have a scale for each output, and activations one for each
token, which is computed in the forward pass.
"""

import math
from copy import deepcopy
from enum import Enum
from typing import TypeVar

import torch
from jaxtyping import BFloat16, Float, Float32, Int8
from torch import Tensor, nn

from flava.models import Clip, Flava
from flava.models.transformer import Transformer, blocks_of

LARGEST = 127
"""Largest absolute value of a quantized number; -128 is not used, for a symmetric range."""
SMALLEST_SCALE = 1e-12
"""Lower bound of a scale, so that a row of zeros is not divided by 0; far below all others."""
ROWS_AT_ONCE = 512
"""The 32-bit sums of this many rows stay in a core's cache until they are scaled. Twice as many, or
half, took longer in ViT-B (docs/log.md)."""


class Int8Linear(nn.Module):
    """A linear layer whose matrix product is computed in 8-bit integers.

    Each row of the weight has a scale, and each token one that is computed in the forward pass.
    """

    weight: Int8[Tensor, "outputs inputs"]
    scale: Float32[Tensor, " outputs"]
    bias: Float32[Tensor, " outputs"]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantize_rows(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.squeeze(1))
        self.register_buffer("bias", linear.bias.detach().float())

    def forward(
        self, states: Float[Tensor, "*tokens inputs"]
    ) -> BFloat16[Tensor, "*tokens outputs"]:
        rows = states.flatten(0, -2)
        output = rows.new_empty(len(rows), len(self.weight), dtype=torch.bfloat16)
        chunks = max(1, math.ceil(len(rows) / ROWS_AT_ONCE))
        for chunk, target in zip(rows.chunk(chunks), output.chunk(chunks), strict=True):
            quantized, scale = _quantize_rows(chunk)
            sums = torch._int_mm(quantized, self.weight.t())  # pyright: ignore[reportPrivateImportUsage]
            target.copy_(sums.float().mul_(scale).mul_(self.scale).add_(self.bias))
        return output.unflatten(0, states.shape[:-1])


def _quantize_rows(
    rows: Float[Tensor, "rows columns"],
) -> tuple[Int8[Tensor, "rows columns"], Float32[Tensor, "rows 1"]]:
    """Each row divided by its scale and rounded to integers, and the scales."""
    rows = rows.to(torch.float32, copy=True)
    scale = rows.abs().amax(dim=1, keepdim=True).div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    return rows.div_(scale).round_().to(torch.int8), scale


def _quantizable_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers of all blocks, but the ``qkv`` of each transformer's last block.

    That one is used in parts, where only some output positions are computed.
    """
    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    used_in_parts = {id(blocks_of(each)[-1].attention.qkv) for each in transformers}
    return [
        module
        for block in blocks_of(model)
        for module in block.modules()
        if isinstance(module, nn.Linear) and id(module) not in used_in_parts
    ]


FlavaOrClip = TypeVar("FlavaOrClip", bound=Flava | Clip)


class InferencePrecision(Enum):
    """The number format of matrix products. The loaded model keeps its weights in 32 bits."""

    BF16 = "bf16"
    FP32 = "fp32"
    INT8 = "int8"
    """8-bit integers in the blocks of the transformers, bf16 elsewhere."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of all products that are not in int8."""
        return torch.float32 if self is InferencePrecision.FP32 else torch.bfloat16


def to_precision(model: FlavaOrClip, precision: InferencePrecision) -> FlavaOrClip:
    """The model itself for fp32; else a copy that shares everything with it but the matrices.

    Autocast would compute the same with matrices in 32 bits, but it converts all of them at each
    call, which takes longer than to encode a caption.

    Raises:
        ValueError: int8 is asked for, and the model is not on a CPU.
    """
    if precision is InferencePrecision.FP32:
        return model
    int8 = _int8_replacements(model) if precision is InferencePrecision.INT8 else {}
    # The codebook computes codes in 32 bits, as in training.
    fp32 = model.codebook.encoder.modules() if isinstance(model, Flava) else ()
    kept = int8.keys() | {id(module) for module in fp32}
    bf16 = {
        id(weight): nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and id(module) not in kept
        for weight in module.parameters(recurse=False)
    }
    shared = {id(weight): weight for weight in model.parameters()}
    # deepcopy takes the memo's objects, by id, instead of copying.
    return deepcopy(model, shared | bf16 | int8)


def _int8_replacements(model: Flava | Clip) -> dict[int, nn.Module]:
    """id of a linear layer -> the `Int8Linear` that replaces it."""
    if (device := model.logit_scale.device).type != "cpu":
        raise ValueError(
            f"precision is int8, which is for CPUs, and the model is on {device}: use bf16, or the "
            "device cpu"
        )
    return {id(linear): Int8Linear(linear) for linear in _quantizable_layers(model)}

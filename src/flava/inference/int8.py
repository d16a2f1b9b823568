"""The precisions of inference, and linear layers in integers of 8 bits for CPUs."""

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
"""A row's largest number, in size; -128 is left out, so that both signs have the same scale."""
SMALLEST_STEP = 1e-12
"""So that a row of zeros is divided by something. Beside a token's largest state it is nothing."""
ROWS_AT_ONCE = 512
"""Sums of so many rows, in 32 bits, stay in a core's cache until they are scaled: twice as many, or
half, took longer in ViT-B (docs/log.md)."""


class Int8Linear(nn.Module):
    """A linear layer whose product is one of whole numbers.

    Each row of the matrix has a scale of its own, and so has each token, found as it comes.
    """

    weight: Int8[Tensor, "outputs inputs"]
    scale: Float32[Tensor, " outputs"]
    bias: Float32[Tensor, " outputs"]

    def __init__(self, matrix: nn.Linear) -> None:
        super().__init__()
        weight, step = whole_rows(matrix.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", step.squeeze(1))
        self.register_buffer("bias", matrix.bias.detach().float())

    def forward(
        self, states: Float[Tensor, "*tokens inputs"]
    ) -> BFloat16[Tensor, "*tokens outputs"]:
        rows = states.flatten(0, -2)
        found = rows.new_empty(len(rows), len(self.weight), dtype=torch.bfloat16)
        parts = max(1, math.ceil(len(rows) / ROWS_AT_ONCE))
        for part, place in zip(rows.chunk(parts), found.chunk(parts), strict=True):
            whole, step = whole_rows(part)
            sums = torch._int_mm(whole, self.weight.t())  # pyright: ignore[reportPrivateImportUsage]
            place.copy_(sums.float().mul_(step).mul_(self.scale).add_(self.bias))
        return found.unflatten(0, states.shape[:-1])


def whole_rows(
    rows: Float[Tensor, "rows columns"],
) -> tuple[Int8[Tensor, "rows columns"], Float32[Tensor, "rows 1"]]:
    """Each row as the nearest whole numbers of a step, and that step."""
    rows = rows.to(torch.float32, copy=True)
    step = rows.abs().amax(dim=1, keepdim=True).div_(LARGEST).clamp_(min=SMALLEST_STEP)
    return rows.div_(step).round_().to(torch.int8), step


def whole_matrices(model: nn.Module) -> list[nn.Linear]:
    """The blocks' matrices that are never used in parts, as those are by `Attention.read`."""
    transformers = [each for each in model.modules() if isinstance(each, Transformer)]
    read = {id(blocks_of(each)[-1].attention.qkv) for each in transformers}
    return [
        each
        for block in blocks_of(model)
        for each in block.modules()
        if isinstance(each, nn.Linear) and id(each) not in read
    ]


Model = TypeVar("Model", bound=Flava | Clip)


class InferencePrecision(Enum):
    """What matrix products are computed in; all that is stored is in 32 bits."""

    BF16 = "bf16"
    FP32 = "fp32"
    INT8 = "int8"
    """Products of the blocks; all else is in bf16."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what is not in whole numbers."""
        return torch.float32 if self is InferencePrecision.FP32 else torch.bfloat16


def in_precision(model: Model, precision: InferencePrecision) -> Model:
    """The model itself for fp32, else one that shares all with it but its matrices.

    Autocast gives the same numbers as matrices in bf16, but converts every one at each call, which
    takes longer than to encode a caption.

    Raises:
        ValueError: int8 is asked for, and the model is not on a CPU.
    """
    if precision is InferencePrecision.FP32:
        return model
    whole = in_int8(model) if precision is InferencePrecision.INT8 else {}
    # Codes are found in 32 bits, as in training.
    exact = model.codebook.encoder.modules() if isinstance(model, Flava) else ()
    kept = whole.keys() | {id(matrix) for matrix in exact}
    lower = {
        id(weight): nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        for matrix in model.modules()
        if isinstance(matrix, nn.Linear | nn.Conv2d) and id(matrix) not in kept
        for weight in matrix.parameters(recurse=False)
    }
    shared = {id(weight): weight for weight in model.parameters()}
    return deepcopy(model, shared | lower | whole)


def in_int8(model: Flava | Clip) -> dict[int, nn.Module]:
    """What takes the place of the blocks' matrices, by their identities."""
    if (device := model.logit_scale.device).type != "cpu":
        raise ValueError(
            f"precision is int8, which is for CPUs, and the model is on {device}: use bf16, or the "
            "device cpu"
        )
    return {id(matrix): Int8Linear(matrix) for matrix in whole_matrices(model)}

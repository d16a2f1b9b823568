"""What inference computes in: the precisions of training, and whole numbers of 8 bits."""

from copy import deepcopy
from enum import Enum
from typing import TypeVar

import torch
from torch import nn

from flava.inference.int8 import Int8Linear, whole_matrices
from flava.model import Clip, Flava

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

"""The precision of matrix products, for training, evaluation and inference."""

from enum import Enum

import torch


class Precision(Enum):
    """Precision of matrix products. Weights and optimizer state always have 32 bits."""

    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self is Precision.BF16 else torch.float32

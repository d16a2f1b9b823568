"""What is computed in how many bits: training, evaluation and inference have it in common."""

from enum import Enum

import torch


class Precision(Enum):
    """What matrix products are computed in; weights and optimiser state are always 32 bits."""

    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self is Precision.BF16 else torch.float32

"""AdamW as the paper uses it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; the defaults are Table A.1's."""

    lr: float = 1e-3
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the denominator; torch's default, the paper names none."""
    weight_decay: float = 0.1
    """Decoupled weight decay; biases, norms and the temperature have none."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; the paper names none."""

    def mistakes(self, field: str) -> list[str]:
        """What is wrong with these settings, one line each."""
        return [
            f"{field}.{name} is {value}: use {remedy}"
            for name, value, holds, remedy in (
                ("lr", self.lr, self.lr > 0, "a positive number"),
                ("beta1", self.beta1, 0 <= self.beta1 < 1, "a number in [0, 1)"),
                ("beta2", self.beta2, 0 <= self.beta2 < 1, "a number in [0, 1)"),
                ("eps", self.eps, self.eps > 0, "a positive number"),
                ("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more"),
                ("max_grad_norm", self.max_grad_norm, self.max_grad_norm > 0, "a positive number"),
            )
            if not holds
        ]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> AdamW:
    """One group for matrices, embeddings and tokens, one without decay for vectors and scalars."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups: Iterable[dict[str, object]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )

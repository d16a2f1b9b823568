"""AdamW, gradient clipping, and the schedules of learning rate and weight decay."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from flava.core.constraints import Fraction


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; the defaults are Table A.1's."""

    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay rate of the moving average of the gradients."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay rate of the moving average of the squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator for numerical stability. This is torch's default; the paper names
    none."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of matrices, embeddings and tokens. Biases, norms and the temperature
    are not decayed."""
    final_weight_decay: NonNegativeFloat | None = None
    """Weight decay at the end of the run, to which it changes along half a cosine. None: it stays
    constant."""
    max_grad_norm: PositiveFloat = math.inf
    """Gradients with a larger norm are scaled down to this one. With inf nothing is clipped:
    neither the paper nor the released trainer clips."""
    clip_each: bool = False
    """Apply max_grad_norm to the gradient of each parameter by itself, as DINO does, and not to the
    norm of all gradients together."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields; see `config_errors`."""
        if self.weight_decay != 0 or self.final_weight_decay is None:
            return []
        return [
            f"{prefix}weight_decay is {self.weight_decay}, and {prefix}final_weight_decay "
            f"{self.final_weight_decay}: parameters that have no decay at first have none later; "
            "use a positive number"
        ]


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> AdamW:
    """AdamW with one parameter group that is decayed (matrices, embeddings, tokens) and one that is
    not (vectors and scalars).

    Fused AdamW cannot mix sharded and unsharded parameters, so each kind has its own groups.
    """
    grouped: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (isinstance(parameter, DTensor), parameter.ndim < 2)
            grouped.setdefault(key, []).append(parameter)
    groups: Iterable[dict[str, object]] = [
        {"params": grouped[key], "weight_decay": 0.0 if key[1] else config.weight_decay}
        for key in sorted(grouped)  # matrices first
    ]
    return AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def clip_gradients(
    config: OptimizerConfig, parameters: Sequence[nn.Parameter]
) -> Float[Tensor, ""]:
    """Scale gradients down where they are too large; returns the norm of all of them before that.

    Norms of sharded gradients are those of the full gradients, on every rank.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not config.clip_each:
        norm = _gradient_norm(gradients)
        _scale_gradients(gradients, norm, config.max_grad_norm)
        return norm
    norms = [_gradient_norm([each]) for each in gradients]
    for each, norm in zip(gradients, norms, strict=True):
        _scale_gradients([each], norm, config.max_grad_norm)
    return torch.stack(norms).norm()


def _gradient_norm(gradients: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The norm of all gradients together, of which some may be sharded."""
    groups = [
        [each for each in gradients if isinstance(each, DTensor) is sharded]
        for sharded in (False, True)
    ]
    norms = [_full_tensor(nn.utils.get_total_norm(group)) for group in groups if group]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _full_tensor(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _scale_gradients(gradients: Sequence[Tensor], norm: Float[Tensor, ""], largest: float) -> None:
    """As ``nn.utils.clip_grads_with_norm_``, for gradients that may be sharded."""
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    local = [each.to_local() if isinstance(each, DTensor) else each for each in gradients]
    torch._foreach_mul_(local, factor)  # pyright: ignore[reportPrivateImportUsage]


class Decay(Enum):
    """How the learning rate falls from its peak."""

    COSINE = "cosine"
    """Half a cosine: the paper's, BEiT's and DALL-E's."""
    LINEAR = "linear"
    """A straight line: RoBERTa's."""

    def __call__(self, progress: float) -> float:
        """The share of the peak that is left, from 1 at progress 0 to 0 at progress 1."""
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return cosine if self is Decay.COSINE else 1 - progress


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate's linear warm-up and its decay; the defaults are Table A.1's."""

    warmup_steps: NonNegativeInt = 10_000
    """Steps over which the learning rate rises linearly from 0 to its peak."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end of its decay, as a share of the peak."""
    decay: Decay = Decay.COSINE
    """Curve along which the learning rate falls: cosine or linear."""
    decay_end: int | None = None
    """Step at which the decay ends; the learning rate stays constant after it. By default the last
    step of the run."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields; see `config_errors`."""
        if self.decay_end is None or self.decay_end > self.warmup_steps:
            return []
        return [
            f"{prefix}decay_end is {self.decay_end}: use more than {prefix}warmup_steps "
            f"{self.warmup_steps}"
        ]


def learning_rate_factor(config: ScheduleConfig, step: int, max_steps: int) -> float:
    """The share of the peak learning rate of step number ``step`` (from 0), in [0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    end = max_steps if config.decay_end is None else config.decay_end
    progress = min((step - config.warmup_steps) / max(1, end - config.warmup_steps), 1.0)
    return config.final_fraction + (1 - config.final_fraction) * config.decay(progress)


def weight_decay_at(config: OptimizerConfig, step: int, max_steps: int) -> float:
    """The weight decay of step number ``step`` (from 0)."""
    if config.final_weight_decay is None:
        return config.weight_decay
    cosine = (1 + math.cos(math.pi * min(step / max_steps, 1.0))) / 2
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * cosine

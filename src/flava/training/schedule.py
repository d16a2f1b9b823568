"""The learning rate and the weight decay over the run."""

import math
from dataclasses import dataclass
from enum import Enum

from flava.training.optimizer import OptimizerConfig


class Decay(Enum):
    """The curve from the peak down."""

    COSINE = "cosine"
    """Half a cosine: the paper's, BEiT's and DALL-E's."""
    LINEAR = "linear"
    """A straight line: RoBERTa's."""

    def __call__(self, progress: float) -> float:
        """From 1 at 0 to 0 at 1."""
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return cosine if self is Decay.COSINE else 1 - progress


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then down to the run's end; the defaults are Table A.1's."""

    warmup_steps: int = 10_000
    """Updates over which the rate rises from 0 to its peak."""
    final_fraction: float = 0.0
    """What is left of the peak at the last update."""
    decay: Decay = Decay.COSINE
    """The curve from the peak down."""
    decay_end: int | None = None
    """Update at which the rate is down and from which on it stays; the run's last if not set."""

    def mistakes(self, field: str) -> list[str]:
        """What is wrong with these settings, one line each."""
        found = []
        if self.warmup_steps < 0:
            found.append(f"{field}.warmup_steps is {self.warmup_steps}: use 0 or more")
        if not 0 <= self.final_fraction <= 1:
            found.append(f"{field}.final_fraction is {self.final_fraction}: use a number in [0, 1]")
        if self.decay_end is not None and self.decay_end <= self.warmup_steps:
            found.append(
                f"{field}.decay_end is {self.decay_end}: use more than {field}.warmup_steps "
                f"{self.warmup_steps}"
            )
        return found


def learning_rate_factor(config: ScheduleConfig, step: int, max_steps: int) -> float:
    """The share of the peak learning rate that update number ``step`` (from 0) uses, in [0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    end = max_steps if config.decay_end is None else config.decay_end
    progress = min((step - config.warmup_steps) / max(1, end - config.warmup_steps), 1.0)
    return config.final_fraction + (1 - config.final_fraction) * config.decay(progress)


def weight_decay_at(config: OptimizerConfig, step: int, max_steps: int) -> float:
    """The weight decay that update number ``step`` (from 0) uses."""
    if config.final_weight_decay is None:
        return config.weight_decay
    cosine = (1 + math.cos(math.pi * min(step / max_steps, 1.0))) / 2
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * cosine

"""The learning rate and the weight decay over the run."""

import math
from dataclasses import dataclass

from flava.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Linear warm-up, then half a cosine; the defaults are Table A.1's."""

    warmup_steps: int = 10_000
    """Updates over which the rate rises from 0 to its peak."""
    final_fraction: float = 0.0
    """What is left of the peak at the last update."""

    def mistakes(self, field: str) -> list[str]:
        """What is wrong with these settings, one line each."""
        found = []
        if self.warmup_steps < 0:
            found.append(f"{field}.warmup_steps is {self.warmup_steps}: use 0 or more")
        if not 0 <= self.final_fraction <= 1:
            found.append(f"{field}.final_fraction is {self.final_fraction}: use a number in [0, 1]")
        return found


def learning_rate_factor(config: ScheduleConfig, step: int, max_steps: int) -> float:
    """The share of the peak learning rate that update number ``step`` (from 0) uses, in [0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return config.final_fraction + (1 - config.final_fraction) * cosine


def weight_decay_at(config: OptimizerConfig, step: int, max_steps: int) -> float:
    """The weight decay that update number ``step`` (from 0) uses."""
    if config.final_weight_decay is None:
        return config.weight_decay
    cosine = (1 + math.cos(math.pi * min(step / max_steps, 1.0))) / 2
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * cosine

"""The interfaces between the training loop and a method: its objective and its validator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from flava.core.batch import Batch
from flava.models.config import Model
from flava.objectives.losses import LossOutput

Validate = Callable[[nn.Module, int], dict[str, float]]
"""(model, step) -> named metrics. The first of them chooses the best checkpoint: higher is better.
It is called on every rank, and returns the same on all of them."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Settings of an objective. A subclass is the configuration of one objective."""


@runtime_checkable
class Objective(Protocol):
    """Computes the named losses of a batch."""

    @property
    def model(self) -> Model: ...

    def __call__(self, batch: Batch) -> dict[str, LossOutput]: ...

    def after_step(self, step: int) -> None:
        """Called when ``step`` steps of the optimizer have been made."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a batch costs on one rank."""

    tokens: int
    """Patches of images and tokens of texts, without padding."""
    operations: int
    """Floating-point operations, two for each multiplication with its addition."""

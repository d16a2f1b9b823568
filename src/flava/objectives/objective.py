"""What the loop needs of a method, and of a probe."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from flava.checkpoints.native import OwnModel
from flava.core.batch import Batch
from flava.objectives import LossOutput

Validate = Callable[[nn.Module, int], dict[str, float]]
"""(model, step) -> named figures. The first of them chooses the best checkpoint: more is better.
Every rank is asked, and all have the same answer."""


@runtime_checkable
class Objective(Protocol):
    """A batch -> its named losses."""

    @property
    def model(self) -> OwnModel: ...

    def __call__(self, batch: Batch) -> dict[str, LossOutput]: ...

    def after_step(self, step: int) -> None:
        """Called when ``step`` updates have been made."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a batch asks for, on one rank."""

    tokens: int
    operations: int

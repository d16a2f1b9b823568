"""What a source holds before it is understood, and how a layout says that it understands it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of a checkpoint under the names of its file, and what stands beside them."""

    origin: str
    """What the user named: for errors."""
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    """The ``config.json`` beside the weights, if there is one."""
    folder: Path | None = None
    """Where to look for the files of a tokeniser or an image processor."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One published way to name a model's tensors."""

    name: str
    """As a user would call it, "Hugging Face FlavaForPreTraining"."""
    matches: Callable[[Stored], bool]
    """Whether the names (and the config) are of this layout; cheap, and never an error."""
    build: Callable[[Stored], nn.Module]
    """The model with these weights, in evaluation mode, its geometry read from config or tensors.

    Raises:
        ValueError: entries are missing, unexpected or misshapen (all of them in one error), or the
            model has what ours cannot compute (with the reason).
    """

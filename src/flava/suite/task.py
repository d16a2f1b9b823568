"""The description of a task of the suite: its data set, and the function that measures it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from flava.evaluation.features import Settings
from flava.evaluation.record import Figure

Group = Literal["vision", "nlp", "multimodal"]
"""The groups of Table C.1."""


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """One data set with its protocol."""

    name: str
    """Its name on the command line, such as "food101"."""
    group: Group
    rows: tuple[tuple[str, str], ...]
    """(row of Table C.1, metric of the figure that fills it) for each row that it fills."""
    folder: str
    """Its folder below ``Settings.data_root``."""
    source: str
    """Where the data can be had, in words."""
    licence: str
    missing: Callable[[Path], list[str]]
    """Its folder -> a line for each missing thing that `measure` reads; empty if nothing is."""
    measure: Callable[[nn.Module, Settings], list[Figure]]
    """Raises ValueError or OSError: the data is wrong, with all its mistakes in one error."""

"""What a task of the suite is: a row of data, beside the functions that find and measure it."""

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
    """As on the command line: "food101"."""
    group: Group
    rows: tuple[tuple[str, str], ...]
    """(row of Table C.1, metric of the figure that fills it)."""
    folder: str
    """Its folder below ``Settings.data_root``."""
    source: str
    """Where the data is to be had, in words."""
    licence: str
    missing: Callable[[Path], list[str]]
    """Its folder -> what is not there of what `measure` reads, a line each; empty if all is."""
    measure: Callable[[nn.Module, Settings], list[Figure]]
    """Raises ValueError or OSError: the data does not hold, with all its mistakes in one error."""

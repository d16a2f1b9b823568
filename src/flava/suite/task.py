"""What a task of the suite consists of, and the settings that all tasks are measured with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from flava.core.precision import Precision
from flava.evaluation.record import Figure
from flava.inference.features import BATCH_SIZE

Group = Literal["vision", "nlp", "multimodal"]
"""The groups of Table C.1."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tasks are measured; all of it is written beside their figures."""

    data_root: Path
    """The folder that holds a folder for each data set."""
    cache: Path
    """Folder for features, extracted text and fine-tuned runs, to compute nothing twice."""
    few: int | None = None
    """Number of samples of each split to use, drawn by the seed. By default all."""
    seed: int = 0
    """Random seed of everything that is drawn."""
    precision: Precision = Precision.BF16
    """Number format of matrix products."""
    batch_size: int = BATCH_SIZE
    """Samples that are computed at once. It changes no figure of a frozen model."""


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

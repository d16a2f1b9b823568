"""The results of an evaluation: a record for each figure, written to evaluation.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Shaped
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from flava.core.files import atomic_file

FILE = "evaluation.json"
PICTURES = "evaluation"
"""The folder within a run's that holds the examples' pictures."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number, with what it takes to judge it.

    ``baselines`` maps a baseline's name to the same metric on the same data: "chance" or
    "majority", "untrained", "pca", "mismatched". ``n`` is how many predictions it averages over.
    """

    task: str
    split: str
    metric: str
    value: float
    n: int
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.task}/{self.split}/{self.metric}"

    def beside(self, rivals: Mapping[str, float]) -> "Figure":
        """The same figure with more baselines."""
        return replace(self, baselines={**self.baselines, **rivals})


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """``counts[i][j]``: how many images of class i were taken for class j."""

    split: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RankedExample:
    """A query with what was retrieved for it, best first; items name pictures or are captions.

    ``rank`` is the place of the first right one among all ``candidates``, counted from 1.
    """

    picture: str
    caption: str
    results: tuple[str, ...]
    right: tuple[bool, ...]
    rank: int
    candidates: int


@dataclass(frozen=True, kw_only=True)
class MaskedImageExample:
    """The names of the pictures of one image, and the share of hidden codes filled in rightly."""

    caption: str
    original: str
    masked: str
    reconstruction: str
    filled_alone: str
    filled_with_caption: str
    right_alone: float
    right_with_caption: float


@dataclass(frozen=True, kw_only=True)
class MaskedTokenExample:
    """One hidden token with the likeliest fillings, (token, probability), best first."""

    truth: str
    with_image: tuple[tuple[str, float], ...]
    without_image: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class MaskedTextExample:
    """A caption whose hidden tokens are shown as [MASK], and its image."""

    picture: str
    sentence: str
    blanks: tuple[MaskedTokenExample, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What the report shows; pictures are named, and kept in ``Evaluation.pictures``."""

    images_for_captions: tuple[RankedExample, ...] = ()
    captions_for_images: tuple[RankedExample, ...] = ()
    masked_images: tuple[MaskedImageExample, ...] = ()
    masked_texts: tuple[MaskedTextExample, ...] = ()
    reconstructions: tuple[tuple[str, str], ...] = ()
    """(original, what the codebook makes of it)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of a model, the settings that produced them, and examples to look at."""

    settings: dict[str, Any]
    seconds: float
    figures: tuple[Figure, ...]
    confusions: tuple[Confusion, ...] = ()
    examples: Examples = Examples()

    def figure(self, task: str, split: str, metric: str) -> Figure | None:
        """The figure of that name, if it was measured."""
        wanted = f"{task}/{split}/{metric}"
        return next((figure for figure in self.figures if figure.name == wanted), None)


EVALUATION = TypeAdapter(Evaluation)

Pictures = Mapping[str, Image.Image]


def save_evaluation(evaluation: Evaluation, pictures: Pictures, run_folder: Path) -> Path:
    """Write RUN/evaluation.json, and the examples' pictures."""
    save_pictures(pictures, run_folder)
    path = run_folder / FILE
    with atomic_file(path) as partial:
        partial.write_bytes(EVALUATION.dump_json(evaluation, indent=2) + b"\n")
    return path


def save_pictures(pictures: Pictures, run_folder: Path) -> None:
    """Write the examples' pictures as RUN/evaluation/NAME.png, in place of earlier ones."""
    folder = run_folder / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png", optimize=True)


def load_evaluation(run_folder: Path) -> Evaluation:
    """Read RUN/evaluation.json.

    Raises:
        FileNotFoundError: the run was not evaluated.
        ValueError: the file is damaged or of another version; its mistakes are listed.
    """
    path = run_folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `flava evaluate {run_folder}` first")
    try:
        return EVALUATION.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is not an evaluation ({error}): run `flava evaluate {run_folder}` again"
        ) from error


@dataclass(frozen=True)
class MetricValue:
    """A metric's value over ``n`` predictions, with the baselines that come with it."""

    value: float
    n: int
    baselines: dict[str, float]


@dataclass(frozen=True)
class TaskMetrics:
    """A task's result for one model: metrics by name."""

    metrics: dict[str, MetricValue]
    confusion: Confusion | None = None


def accuracy(predicted: Shaped[Tensor, " n"], truth: Shaped[Tensor, " n"]) -> float:
    """The share of right predictions."""
    return (predicted == truth).double().mean().item()


def majority(truth: Shaped[Tensor, " n"]) -> float:
    """The accuracy of the best constant answer: that of the commonest class of this very data."""
    return truth.bincount().max().item() / len(truth)


def confusion(
    truth: Int[Tensor, " images"], predicted: Int[Tensor, " images"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Counts: rows are the true classes, columns the predicted ones."""
    return torch.bincount(truth * classes + predicted, minlength=classes**2).view(classes, classes)

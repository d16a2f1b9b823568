"""What SNLI-VE and Hateful Memes share: labelled pairs of an image and a text are read from JSON
lines, and a classifier of them is fine-tuned and measured. VQAv2 shares the recipe."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flava.data import labelled
from flava.data.labelled import LabelledRow
from flava.evaluation.record import Figure, accuracy, majority
from flava.models import Clip, Flava
from flava.models.classifier import PAIR_HIDDEN_WIDTH
from flava.suite.data_mistakes import duplicates, missing_names, raise_mistakes_by_kind
from flava.suite.fine_tuning import FineTuningData, FineTuningRecipe, fine_tune_task
from flava.suite.multimodal.dataset_files import read_json_lines
from flava.suite.task import Settings
from flava.training.optimizer import OptimizerConfig, ScheduleConfig

BATCH_SIZE = 256
WEIGHT_DECAY = 1e-2
PRETRAINING_SIZE = 224
"""Pixels a side of the images in the paper's pretraining."""


@dataclass(frozen=True, kw_only=True)
class PairRecipe:
    """What differs between the tasks' fine-tunings (the paper's supplement); the rest is shared."""

    max_steps: int
    """Steps of `BATCH_SIZE` samples."""
    warmup_steps: int = 2000
    """Steps over which the learning rate rises; then it falls by a cosine."""
    lr: float
    image_size: int
    """Pixels a side, for a model that is pretrained on images of `PRETRAINING_SIZE`."""
    train_samples: int
    """Size of the official training split, which tells how many epochs the steps are."""


def recipe_for(
    recipe: PairRecipe, model: nn.Module, train_samples: int, *, few: bool
) -> FineTuningRecipe:
    """The recipe for a model and a number of training samples.

    Gradients are not clipped: the paper names no clipping, and the trainer it was made with (MMF)
    clips none by default.

    Args:
        few: Whether the samples are a part of the training split. Steps and warm-up then shrink so
            that each sample is seen as often as it would be in the whole.

    Raises:
        ValueError: the model is neither a FLAVA nor a CLIP.
    """
    if not isinstance(model, Flava | Clip):
        raise ValueError(f"a {type(model).__name__} does not read pairs: give a FLAVA or a CLIP")
    image = model.config.image
    max_steps, warmup_steps = recipe.max_steps, recipe.warmup_steps
    if few:
        epochs = recipe.max_steps * BATCH_SIZE / recipe.train_samples
        max_steps = math.ceil(epochs * train_samples / min(BATCH_SIZE, train_samples))
        warmup_steps = round(recipe.warmup_steps / recipe.max_steps * max_steps)
    return FineTuningRecipe(
        max_steps=max_steps,
        batch_size=BATCH_SIZE,
        optimizer=OptimizerConfig(lr=recipe.lr, weight_decay=WEIGHT_DECAY),
        schedule=ScheduleConfig(warmup_steps=warmup_steps),
        hidden_width=PAIR_HIDDEN_WIDTH,
        image_size=_proportional_size(recipe.image_size, image.image_size, image.patch_size),
    )


def _proportional_size(size: int, pretrained: int, patch: int) -> int:
    """The image size whose ratio to ``pretrained`` is that of ``size`` to 224, in whole patches.

    For a base model, pretrained on 224 pixels, it is ``size`` itself: 480 in VQAv2.
    """
    return max(1, round(size / PRETRAINING_SIZE * pretrained / patch)) * patch


@dataclass(frozen=True, kw_only=True)
class PairFields:
    """The names of an object's fields."""

    id: str
    image: tuple[str, ...]
    """The name of the image's file is in the first of these fields that is there."""
    suffix: str
    """End of the file's name, which some releases leave out."""
    text: str
    label: str
    classes: Mapping[Any, str]
    """Value of the field `label` -> the class."""


def read_pairs(path: Path, images: Path, fields: PairFields) -> list[LabelledRow]:
    """The pairs of one split in the file's order, with their classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: lines are no objects or lack a field, a label is none of the classes, a class
            has no pair, an id occurs twice, or images are missing; all mistakes in one error.
    """
    lines = read_json_lines(path)
    names = (fields.id, " or ".join(fields.image), fields.text, fields.label)
    well_formed = [cells for _, cells in lines if _has_fields(cells, fields)]
    rows = [
        LabelledRow(
            shard=path.name,
            key=str(cells[fields.id]),
            image=images / _image_name(cells, fields),
            text=cells[fields.text],
            label=fields.classes.get(cells[fields.label]),
        )
        for cells in well_formed
    ]
    classes = {row.label for row in rows}
    raise_mistakes_by_kind(
        path,
        {
            f"lines without {', '.join(names)}": [
                name for name, cells in lines if not _has_fields(cells, fields)
            ],
            f"labels other than {', '.join(map(str, fields.classes))}": [
                f"{cells[fields.label]!r} of {cells[fields.id]}"
                for cells, row in zip(well_formed, rows, strict=True)
                if row.label is None
            ],
            "classes without a pair": [
                name for name in fields.classes.values() if name not in classes
            ],
            "ids that occur twice": duplicates(row.key for row in rows),
            f"images that are missing in {images}": missing_names(
                row.image for row in rows if isinstance(row.image, Path)
            ),
        },
        "Fetch what is missing, and the file anew if it is at fault.",
    )
    return rows


def _has_fields(cells: Mapping[str, Any], fields: PairFields) -> bool:
    """Whether all fields are there, and hold a text or a whole number."""
    names = (fields.id, _image_field(cells, fields), fields.text, fields.label)
    return all(type(cells.get(name)) in (str, int) for name in names) and isinstance(
        cells[fields.text], str
    )


def _image_field(cells: Mapping[str, Any], fields: PairFields) -> str:
    return next((name for name in fields.image if name in cells), fields.image[0])


def _image_name(cells: Mapping[str, Any], fields: PairFields) -> str:
    name = str(cells[_image_field(cells, fields)])
    return name.removesuffix(fields.suffix) + fields.suffix


def few_of_each(rows: Sequence[LabelledRow], few: int | None, seed: int) -> list[LabelledRow]:
    """About ``few`` rows, drawn by the seed from each class in proportion; all rows if None."""
    if few is None or few >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(labelled.draw_validation(rows, few / len(rows), seed))]


PairMetric = Callable[[Float[Tensor, "rows classes"], Int[Tensor, " rows"]], float]
"""(logits, numbers of the classes) -> the metric."""


@dataclass(frozen=True, kw_only=True)
class PairTask:
    """A classification of pairs, with its rows or a few of them."""

    name: str
    classes: tuple[str, ...]
    metrics: Mapping[str, PairMetric]
    """The first one chooses the checkpoint."""
    recipe: PairRecipe
    train: Sequence[LabelledRow]
    validation: Sequence[LabelledRow]
    test: Sequence[LabelledRow]
    test_name: str = "test"
    """Name of the test split in results."""


def measure_pairs(model: nn.Module, task: PairTask, settings: Settings) -> list[Figure]:
    """Fine-tune a model on a task; returns the metrics on the test split.

    Raises:
        ValueError, Interrupted, FloatingPointError, OSError: as `fine_tune_task`.
    """

    def score(
        outputs: Float[Tensor, "rows classes"], rows: Sequence[LabelledRow]
    ) -> dict[str, float]:
        truth = _class_numbers(rows, task.classes)
        return {name: metric(outputs, truth) for name, metric in task.metrics.items()}

    data = FineTuningData(
        task=task.name,
        kind="pairs",
        classes=task.classes,
        train=task.train,
        validation=task.validation,
        score=score,
    )
    recipe = recipe_for(task.recipe, model, len(task.train), few=settings.few is not None)
    tuned = fine_tune_task(model, data, recipe, settings, settings.seed)
    truth = _class_numbers(task.test, task.classes)
    baselines = {"accuracy": {"majority": majority(truth)}, "roc_auc": {"chance": 0.5}}
    return [
        Figure(
            task=task.name,
            split=task.test_name,
            metric=name,
            value=value,
            n=len(task.test),
            baselines=baselines[name],
        )
        for name, value in score(tuned.outputs(task.test, "test pairs"), task.test).items()
    ]


def _class_numbers(rows: Sequence[LabelledRow], classes: Sequence[str]) -> Int[Tensor, " rows"]:
    """The index of each row's class."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[row.label or ""] for row in rows])


def argmax_accuracy(logits: Float[Tensor, "rows classes"], truth: Int[Tensor, " rows"]) -> float:
    """The share of rows whose likeliest class is the true one."""
    return accuracy(logits.argmax(dim=1), truth)

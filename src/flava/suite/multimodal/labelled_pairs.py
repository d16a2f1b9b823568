"""Pairs that belong to classes: read from JSON lines, fine-tuned on, measured."""

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
from flava.finetuning.fine_tuner import TuningConfig, TuningSamples, fine_tune
from flava.models import Clip, Flava
from flava.models.classifier import PAIR_HIDDEN_WIDTH
from flava.suite.multimodal.dataset_files import absent, read_json_lines, refuse, repeated
from flava.suite.task import Settings
from flava.training.optimizer import OptimizerConfig, ScheduleConfig

BATCH_SIZE = 256
WEIGHT_DECAY = 1e-2
PRETRAINING_SIZE = 224
"""Pixels a side of the images in pretraining."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What differs between the tasks; the rest is the same for all (the paper's supplement)."""

    updates: int
    """Of `BATCH_SIZE` samples each."""
    warmup: int = 2000
    """Of them, those over which the learning rate rises; then it falls by a cosine."""
    lr: float
    image_size: int
    """Pixels a side, for a model that is pretrained on images of `PRETRAINING_SIZE`."""
    samples: int
    """Those of the official training split, by which updates are counted as epochs."""


def tuning(protocol: Protocol, model: nn.Module, samples: int, *, few: bool) -> TuningConfig:
    """The protocol for so many training samples. Gradients are not clipped: the paper names no
    clipping, and the trainer it was made with (MMF) clips none unless it is told to.

    With ``few`` of them, updates and warm-up shrink so that each is seen as often as it would be
    in the whole.

    Raises:
        ValueError: the model is neither a FLAVA nor a CLIP.
    """
    if not isinstance(model, Flava | Clip):
        raise ValueError(f"a {type(model).__name__} does not read pairs: give a FLAVA or a CLIP")
    image = model.config.image
    updates, warmup = protocol.updates, protocol.warmup
    if few:
        seen = protocol.updates * BATCH_SIZE / protocol.samples
        updates = math.ceil(seen * samples / min(BATCH_SIZE, samples))
        warmup = round(protocol.warmup / protocol.updates * updates)
    return TuningConfig(
        max_steps=updates,
        batch_size=BATCH_SIZE,
        optimizer=OptimizerConfig(lr=protocol.lr, weight_decay=WEIGHT_DECAY),
        schedule=ScheduleConfig(warmup_steps=warmup),
        hidden_width=PAIR_HIDDEN_WIDTH,
        image_size=in_proportion(protocol.image_size, image.image_size, image.patch_size),
    )


def in_proportion(size: int, pretrained: int, patch: int) -> int:
    """The image size that is to ``pretrained`` as ``size`` to 224, in whole patches: 480 for a base
    model where ``size`` is."""
    return max(1, round(size / PRETRAINING_SIZE * pretrained / patch)) * patch


@dataclass(frozen=True, kw_only=True)
class FieldLayout:
    """What the fields of an object are called."""

    id: str
    image: tuple[str, ...]
    """The image file's name: the first of these that is there."""
    suffix: str
    """What the name ends in; some releases leave it out."""
    text: str
    label: str
    classes: Mapping[Any, str]
    """What stands in the field `label` -> the class."""


def read_pairs(path: Path, images: Path, layout: FieldLayout) -> list[LabelledRow]:
    """The pairs of one split in the file's order, with their classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: lines are no objects or lack a field, a label is none of the classes, a class
            has no pair, an id stands there twice, or images are missing; all mistakes in one error.
    """
    lines = read_json_lines(path)
    fields = (layout.id, " or ".join(layout.image), layout.text, layout.label)
    whole = [cells for _, cells in lines if well_formed(cells, layout)]
    classes = [class_of(each, layout) for each in whole]
    rows = [
        LabelledRow(
            shard=path.name,
            key=str(each[layout.id]),
            image=images / image_name(each, layout),
            text=each[layout.text],
            label=found,
        )
        for each, found in zip(whole, classes, strict=True)
    ]
    refuse(
        path,
        {
            f"lines without {', '.join(fields)}": [
                name for name, cells in lines if not well_formed(cells, layout)
            ],
            f"labels other than {', '.join(map(str, layout.classes))}": [
                f"{each[layout.label]!r} of {each[layout.id]}"
                for each, found in zip(whole, classes, strict=True)
                if found is None
            ],
            "classes of which there is none": [
                name for name in layout.classes.values() if name not in classes
            ],
            "ids that stand there twice": repeated(row.key for row in rows),
            f"images that are missing in {images}": absent(
                row.image for row in rows if isinstance(row.image, Path)
            ),
        },
        "Fetch what is missing, and the file anew if it is at fault.",
    )
    return rows


def well_formed(cells: Mapping[str, Any], layout: FieldLayout) -> bool:
    """Whether all fields are there, and hold a text or a whole number."""
    fields = (layout.id, image_field(cells, layout), layout.text, layout.label)
    return all(type(cells.get(each)) in (str, int) for each in fields) and isinstance(
        cells[layout.text], str
    )


def image_field(cells: Mapping[str, Any], layout: FieldLayout) -> str:
    return next((each for each in layout.image if each in cells), layout.image[0])


def image_name(cells: Mapping[str, Any], layout: FieldLayout) -> str:
    name = str(cells[image_field(cells, layout)])
    return name.removesuffix(layout.suffix) + layout.suffix


def class_of(cells: Mapping[str, Any], layout: FieldLayout) -> str | None:
    return layout.classes.get(cells[layout.label])


def few_of_each(rows: Sequence[LabelledRow], few: int | None, seed: int) -> list[LabelledRow]:
    """About ``few`` of the rows, of each class its share, drawn by the seed; all if not set."""
    if few is None or few >= len(rows):
        return list(rows)
    return [rows[place] for place in sorted(labelled.drawn(rows, few / len(rows), seed))]


PairMetric = Callable[[Float[Tensor, "rows classes"], Int[Tensor, " rows"]], float]
"""(logits, numbers of the classes) -> the metric."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set's rows, or those few that are looked at."""

    train: Sequence[LabelledRow]
    validation: Sequence[LabelledRow]
    test: Sequence[LabelledRow]
    name: str = "test"
    """Of the test split."""


@dataclass(frozen=True, kw_only=True)
class PairClassification:
    """What is measured of a classifier of pairs."""

    name: str
    classes: tuple[str, ...]
    metrics: Mapping[str, PairMetric]
    """The first chooses the checkpoint."""
    protocol: Protocol


def classify(
    model: nn.Module, task: PairClassification, splits: Splits, settings: Settings
) -> list[Figure]:
    """The metrics on the test split.

    Raises:
        ValueError, Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """

    def score(
        outputs: Float[Tensor, "rows classes"], rows: Sequence[LabelledRow]
    ) -> dict[str, float]:
        truth = numbers(rows, task.classes)
        return {name: metric(outputs, truth) for name, metric in task.metrics.items()}

    samples = TuningSamples(
        task=task.name,
        kind="pairs",
        classes=task.classes,
        train=splits.train,
        validation=splits.validation,
        score=score,
    )
    config = tuning(task.protocol, model, len(splits.train), few=settings.few is not None)
    tuned = fine_tune(model, samples, config, settings, settings.seed)
    found = score(tuned.outputs(splits.test, "test pairs"), splits.test)
    truth = numbers(splits.test, task.classes)
    constants = {"accuracy": {"majority": majority(truth)}, "roc_auc": {"chance": 0.5}}
    return [
        Figure(
            task=task.name,
            split=splits.name,
            metric=name,
            value=value,
            n=len(splits.test),
            baselines=constants[name],
        )
        for name, value in found.items()
    ]


def numbers(rows: Sequence[LabelledRow], classes: Sequence[str]) -> Int[Tensor, " rows"]:
    """The place of each row's class."""
    places = {name: place for place, name in enumerate(classes)}
    return torch.tensor([places[row.label or ""] for row in rows])


def argmax_accuracy(logits: Float[Tensor, "rows classes"], truth: Int[Tensor, " rows"]) -> float:
    """The share of rows whose likeliest class is theirs."""
    return accuracy(logits.argmax(dim=1), truth)

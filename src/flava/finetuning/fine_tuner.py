"""Trains encoders and a new head end to end, for `flava finetune` and for the suite.

The caller makes the `Classifier` and the run's configuration. Training can be resumed, and the
checkpoint with the highest score on the validation rows is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from flava.checkpoints.native import fill_own
from flava.checkpoints.reading import find_checkpoint, read_path
from flava.data.labelled import LabelledRow, LabelledRows
from flava.data.labelled_loader import LabelledCollator, LabelledLoader
from flava.data.skips import SkipCounter
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import RowOutputs, reader_of, row_outputs
from flava.models import Classifier, ClassifierConfig
from flava.objectives import FinetuneObjective
from flava.training.checkpoint import step_of
from flava.training.launch import keep_freed_memory
from flava.training.run_folder import check
from flava.training.trainer import Trainer
from flava.training.trainer_config import TrainerConfig

VALIDATIONS = 10
"""How often a run is validated, the last time after its last step. Few times, since the best of
many would be luck; and as often as RoBERTa's ten epochs."""

Score = Callable[[RowOutputs], dict[str, float]]
"""(outputs of the head for the validation rows) -> metrics.

The first metric chooses the best checkpoint: more is better, and it must be a number whatever the
outputs are."""


@dataclass(frozen=True, kw_only=True)
class FineTunerConfig(TrainerConfig):
    """The settings that the fine-tuner needs; each kind of run adds its data."""

    batch_size: int
    """Samples that are computed at once; ``accumulate`` of these batches make a step."""
    crop_scale: tuple[float, float]
    """Smallest and largest share of an image's area in a training crop; (1, 1) trains on whole
    images."""
    model: ClassifierConfig
    """Geometry of the classifier, and its classes."""
    train_samples: int
    validation_samples: int


def fine_tune(
    classifier: Classifier,
    run: FineTunerConfig,
    train: LabelledRows,
    validation: Sequence[LabelledRow],
    score: Score,
    *,
    upright: bool,
    workers: int,
) -> SkipCounter:
    """Train a classifier to the end, or from the last checkpoint on if ``run.resume`` is set.

    Afterwards it has the weights of the last step; `load_best` gives it the best.

    Args:
        train: Each row has a ``label`` (cross-entropy), ``answers`` (soft-target binary
            cross-entropy) or a ``score`` (mean squared error).
        upright: Whether images are turned as their EXIF says.
        workers: Processes that read the data; 0 reads it in this one. It changes no result.

    Returns:
        The training samples that could not be decoded.

    Raises:
        ValueError: the run's folder cannot be used, or most training rows cannot be decoded.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    reader = reader_of(run.model.encoder, run.crop_scale, upright=upright)

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        return score(row_outputs(FeatureExtractor(model, run.precision), validation, reader))

    keep_freed_memory()
    check(run)
    trainer = Trainer(run, FinetuneObjective(classifier), validate)
    with LabelledLoader(
        train,
        LabelledCollator(reader=reader, classes=run.model.classes),
        batch_size=run.batch_size,
        seed=run.seed,
        first=trainer.step * run.accumulate,
        workers=workers,
    ) as batches:
        trainer.train(batches)
        return batches.skips


def load_best(classifier: Classifier, run_folder: Path) -> int:
    """Fill a classifier with a run's best weights; returns the step that they were saved after."""
    best = find_checkpoint(run_folder)
    fill_own(classifier, read_path(best))
    return step_of(best)

"""Fine-tuning as GLUE and the multimodal tasks share it: encoders and a new head, end to end.

A task brings rows with targets (`TuningSamples`) and its recipe (`TuningConfig`). The checkpoint
that is best on the validation rows is kept below the cache, in a folder that is named by all that
decides it: what was interrupted goes on, and what is finished is not done again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor, nn

from flava.checkpoints.digests import weights_digest
from flava.checkpoints.native import fill_own
from flava.checkpoints.reading import find_checkpoint, read_path
from flava.core.batch import Kind
from flava.core.distributed import local_device
from flava.core.files import write_atomically
from flava.core.precision import Precision
from flava.data.labelled import LabelledRow, LabelledRows, rows_digest
from flava.data.labelled_loader import LabelledCollator, LabelledLoader, RowReader
from flava.data.skips import SkipCounter
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import RowOutputs, reader_of, row_outputs, vocabulary_misfit
from flava.models import Classifier, ClassifierConfig, classifier_of
from flava.objectives import FinetuneObjective
from flava.objectives.objective import Validate
from flava.suite.task import Settings
from flava.training.checkpoint import keep_best
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import FREE_ON_RESUME, TrainerConfig
from flava.training.run_folder import check
from flava.training.trainer import Trainer

FINISHED = "finished"
"""A file that says so: of such a run only the best checkpoint is left."""

SHOWN = 10
"""Samples that an error names; the rest is counted."""

Score = Callable[[Float[Tensor, "rows outputs"], Sequence[LabelledRow]], dict[str, float]]
"""(outputs of the head, their rows) -> metrics. The first chooses the checkpoint: more is better,
and it is a number whatever the outputs are."""


@dataclass(frozen=True, kw_only=True)
class TuningSamples:
    """What a task is fine-tuned and validated on.

    Rows have a ``label`` each (cross-entropy), or ``answers`` (soft-target binary cross-entropy),
    or a ``score`` (mean squared error; ``classes`` are empty then).
    """

    task: str
    kind: Kind
    classes: tuple[str, ...]
    train: Sequence[LabelledRow]
    validation: Sequence[LabelledRow]
    score: Score


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How a task is fine-tuned: what its source says."""

    max_steps: int
    """Updates."""
    batch_size: int
    """Samples of an update, or all if there are fewer."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    hidden_width: int | None
    """Width of the head's hidden layer; a single linear layer if there is none."""
    image_size: int | None = None
    """Pixels a side, if others than in pretraining: positions are interpolated."""
    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Share of an image's area in a training crop; (1, 1) trains on whole images."""
    looks: int = 10
    """Looks at the validation rows, the last of them after the last update."""
    workers: int = 1
    """Processes that read the data; changes no figure."""


@dataclass(frozen=True, kw_only=True)
class SuiteRun(TrainerConfig):
    """Everything that decides what a fine-tuning of the suite does."""

    recipe: Annotated[str, tyro.conf.Suppress] = "suite"
    task: str
    batch_size: int
    """Samples that are computed at once; ``accumulate`` of them make an update."""
    crop_scale: tuple[float, float]
    model: ClassifierConfig
    start: str
    """Names the weights of the encoders before the first update."""
    data: str
    """Names the rows with their targets."""
    train_samples: int
    validation_samples: int


@dataclass(frozen=True)
class FineTuned:
    """The best checkpoint of a finished run, on the device that it was trained on."""

    classifier: Classifier
    run: SuiteRun
    step: int
    """The update that it was written after."""

    def outputs(self, rows: Sequence[LabelledRow], shown_as: str) -> Float[Tensor, "rows outputs"]:
        """The head's outputs for all rows, in order.

        Raises:
            ValueError: some rows cannot be decoded; they are named.
        """
        reader = reader_of(self.classifier.config.encoder, upright=False)
        extractor = FeatureExtractor(self.classifier, self.run.precision)
        found = row_outputs(extractor, rows, reader, title=shown_as)
        return complete(found, self.run.task)


def fine_tune(
    model: nn.Module, samples: TuningSamples, config: TuningConfig, settings: Settings, seed: int
) -> FineTuned:
    """Fine-tune a copy of a model's encoders, go on with that, or take what is finished.

    Raises:
        ValueError: the model does not read such rows, or rows cannot be decoded.
        Interrupted: the user stopped it, after a checkpoint was written.
        FloatingPointError, OSError: as `Trainer.train`.
    """
    torch.manual_seed(seed)
    classifier = classifier_of(
        model,
        samples.kind,
        samples.classes,
        hidden_width=config.hidden_width,
        image_size=config.image_size,
    )
    if misfit := vocabulary_misfit(classifier.config.encoder):
        raise ValueError(f"{samples.task}: the model cannot read its texts: {misfit[0]}")
    run = run_of(classifier, samples, config, settings, seed)
    if not (run.output_dir / FINISHED).is_file():
        train(classifier, samples, run, config.workers)
        write_atomically(run.output_dir / FINISHED, b"")
        keep_best(run.output_dir)
    return finished(classifier, run)


def run_of(
    classifier: Classifier,
    samples: TuningSamples,
    config: TuningConfig,
    settings: Settings,
    seed: int,
) -> SuiteRun:
    """The whole configuration of a run, whose folder is named by it."""
    batch_size = min(config.batch_size, len(samples.train))
    accumulate = batches_of_update(batch_size, settings.batch_size)
    every = math.ceil(config.max_steps / config.looks)
    rows = [*samples.train, *samples.validation]

    def made(output_dir: Path) -> SuiteRun:
        return SuiteRun(
            output_dir=output_dir,
            max_steps=config.max_steps,
            seed=seed,
            resume=True,
            optimizer=config.optimizer,
            schedule=config.schedule,
            precision=settings.precision,
            accumulate=accumulate,
            validate_every=every,
            checkpoint_every=every,
            task=samples.task,
            batch_size=batch_size // accumulate,
            crop_scale=config.crop_scale,
            model=classifier.config,
            start=weights_digest(classifier.features)[:16],
            data=rows_digest(rows),
            train_samples=len(samples.train),
            validation_samples=len(samples.validation),
        )

    folder = settings.cache / "fine-tuned" / samples.task
    return made(folder / f"seed-{seed}-{run_digest(made(folder))}")


def batches_of_update(batch_size: int, at_once: int) -> int:
    """The fewest equal batches that a batch falls into, of at most ``at_once`` samples each."""
    return next(
        n for n in range(1, batch_size + 1) if not batch_size % n and batch_size / n <= at_once
    )


def train(classifier: Classifier, samples: TuningSamples, run: SuiteRun, workers: int) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    encoder = classifier.config.encoder
    probe = scored_probe(samples, reader_of(encoder, upright=False), run.precision)
    check(run)
    trainer = Trainer(run, FinetuneObjective(classifier), probe)
    rows = LabelledRows(
        kind=samples.kind,
        rows=tuple(samples.train),
        skips=SkipCounter(samples.task, "the training data", "correct the data"),
    )
    try:
        train_on(
            trainer,
            classifier,
            rows,
            reader_of(encoder, run.crop_scale, upright=False),
            run.batch_size,
            workers,
        )
    except Interrupted as error:
        raise Interrupted(
            f"{samples.task} was stopped after {trainer.step} of {run.max_steps} updates of its "
            "fine-tuning: the same command goes on from there"
        ) from error


def train_on(
    trainer: Trainer,
    classifier: Classifier,
    rows: LabelledRows,
    reader: RowReader,
    batch_size: int,
    workers: int,
) -> SkipCounter:
    """Train a classifier on all rows, from the trainer's step on; returns what was left out.

    Raises:
        ValueError: most rows cannot be decoded.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    with LabelledLoader(
        rows,
        LabelledCollator(reader=reader, classes=classifier.config.classes),
        batch_size=batch_size,
        seed=trainer.run.seed,
        first=trainer.step * trainer.run.accumulate,
        workers=workers,
    ) as batches:
        trainer.train(batches)
        return batches.skips


def scored_probe(samples: TuningSamples, reader: RowReader[Any], precision: Precision) -> Validate:
    """(model, step) -> the task's metrics of the validation rows."""

    def probe(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        found = row_outputs(FeatureExtractor(model, precision), samples.validation, reader)
        return samples.score(complete(found, samples.task), found.rows)

    return probe


def complete(found: RowOutputs, task: str) -> Float[Tensor, "rows outputs"]:
    """The outputs of all rows.

    Raises:
        ValueError: some have none; they are named.
    """
    if not found.skipped:
        return found.values
    named = "".join(f"\n  {each}" for each in found.skipped[:SHOWN])
    more = len(found.skipped) - SHOWN
    raise ValueError(
        f"{task}: {len(found.skipped)} samples cannot be decoded, and a figure without them would "
        f"be another one; correct the data:{named}" + (f"\n  and {more} more" if more > 0 else "")
    )


def finished(classifier: Classifier, run: SuiteRun) -> FineTuned:
    """The best checkpoint."""
    best = find_checkpoint(run.output_dir)
    fill_own(classifier, read_path(best))
    step = int(best.resolve().name.removeprefix("step-"))
    device = local_device()
    return FineTuned(classifier.to(device).eval(), run, step)


def run_digest(run: SuiteRun) -> str:
    """Names a run by all that decides what comes of it."""
    fields = json.loads(TypeAdapter(SuiteRun).dump_json(run))
    free = FREE_ON_RESUME - {"max_steps", "validate_every", "validation_tolerance"}
    text = json.dumps({name: v for name, v in fields.items() if name not in free}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

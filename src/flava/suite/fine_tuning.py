"""Fine-tuning for the suite's tasks: one run for each task, recipe and seed, never done twice.

GLUE and the multimodal tasks bring their rows (`FineTuningData`) and their recipe
(`FineTuningRecipe`). The run's folder is below the cache, and is named by a digest of everything
that decides the result: what was interrupted is resumed, and what is finished is loaded.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from pydantic import TypeAdapter
from torch import Tensor, nn

from flava.checkpoints.digests import weights_digest
from flava.core.batch import Kind
from flava.core.distributed import local_device
from flava.core.files import write_atomically
from flava.data.labelled import LabelledRow, LabelledRows, rows_digest
from flava.data.skips import SkipCounter
from flava.finetuning.fine_tuner import VALIDATIONS, FineTunerConfig, fine_tune, load_best
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import RowOutputs, reader_of, row_outputs, vocabulary_misfit
from flava.models import Classifier, classifier_of
from flava.suite.task import Settings
from flava.training.checkpoint import keep_best, load_progress
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.trainer_config import FREE_ON_RESUME

FINISHED = "finished"
"""An empty file that marks a finished run, of which only the best checkpoint is kept."""

SHOWN = 10
"""Samples that an error names; the others are counted."""

WHOLE_IMAGES = (1.0, 1.0)
"""The share of an image's area in a training crop: the tasks train on whole images."""

TaskScore = Callable[[Float[Tensor, "rows outputs"], Sequence[LabelledRow]], dict[str, float]]
"""(outputs of the head, their rows) -> metrics. The first chooses the checkpoint: more is better,
and it is a number whatever the outputs are."""


@dataclass(frozen=True, kw_only=True)
class FineTuningData:
    """What a task is fine-tuned and validated on.

    Rows have a ``label`` each (cross-entropy), or ``answers`` (soft-target binary cross-entropy),
    or a ``score`` (mean squared error; ``classes`` are empty then).
    """

    task: str
    kind: Kind
    classes: tuple[str, ...]
    train: Sequence[LabelledRow]
    validation: Sequence[LabelledRow]
    score: TaskScore


@dataclass(frozen=True, kw_only=True)
class FineTuningRecipe:
    """How a task is fine-tuned, as its source says."""

    max_steps: int
    batch_size: int
    """Samples of a step, or all if there are fewer."""
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    hidden_width: int | None
    """Width of the head's hidden layer; a single linear layer if there is none."""
    image_size: int | None = None
    """Pixels a side, if others than in pretraining: positions are interpolated."""
    workers: int = 1
    """Processes that read the data; changes no result."""


@dataclass(frozen=True, kw_only=True)
class SuiteRun(FineTunerConfig):
    """Everything that decides the result of a fine-tuning of the suite."""

    recipe: Annotated[str, tyro.conf.Suppress] = "suite"
    task: str
    start: str
    """Digest of the encoders' weights before the first step."""
    data: str
    """Digest of the rows with their targets."""


@dataclass(frozen=True)
class FineTuned:
    """The best checkpoint of a finished run, on the device that it was trained on."""

    classifier: Classifier
    run: SuiteRun
    step: int
    """The step that it was written after."""

    def outputs(self, rows: Sequence[LabelledRow], shown_as: str) -> Float[Tensor, "rows outputs"]:
        """The head's outputs for all rows, in order.

        Args:
            shown_as: The title of the progress bar.

        Raises:
            ValueError: some rows cannot be decoded; they are named.
        """
        reader = reader_of(self.classifier.config.encoder, upright=False)
        extractor = FeatureExtractor(self.classifier, self.run.precision)
        outputs = row_outputs(extractor, rows, reader, title=shown_as)
        return _complete(outputs, self.run.task)


def fine_tune_task(
    model: nn.Module, data: FineTuningData, recipe: FineTuningRecipe, settings: Settings, seed: int
) -> FineTuned:
    """Fine-tune a copy of a model's encoders, resume that, or load it if it is finished.

    Raises:
        ValueError: the model does not read such rows, or rows cannot be decoded.
        Interrupted: the user stopped it, after a checkpoint was written.
        FloatingPointError, OSError: as `Trainer.train`.
    """
    torch.manual_seed(seed)
    classifier = classifier_of(
        model,
        data.kind,
        data.classes,
        hidden_width=recipe.hidden_width,
        image_size=recipe.image_size,
    )
    if misfit := vocabulary_misfit(classifier.config.encoder):
        raise ValueError(f"{data.task}: the model cannot read its texts: {misfit[0]}")
    run = _run_of(classifier, data, recipe, settings, seed)
    if not (run.output_dir / FINISHED).is_file():
        _train(classifier, data, run, recipe.workers)
        write_atomically(run.output_dir / FINISHED, b"")
        keep_best(run.output_dir)
    step = load_best(classifier, run.output_dir)
    return FineTuned(classifier.to(local_device()).eval(), run, step)


def _run_of(
    classifier: Classifier,
    data: FineTuningData,
    recipe: FineTuningRecipe,
    settings: Settings,
    seed: int,
) -> SuiteRun:
    """The whole configuration of a run, after which its folder is named."""
    batch_size = min(recipe.batch_size, len(data.train))
    accumulate = _batches_of_step(batch_size, settings.batch_size)
    every = math.ceil(recipe.max_steps / VALIDATIONS)
    folder = settings.cache / "fine-tuned" / data.task
    run = SuiteRun(
        output_dir=folder,
        max_steps=recipe.max_steps,
        seed=seed,
        resume=True,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        precision=settings.precision,
        accumulate=accumulate,
        validate_every=every,
        checkpoint_every=every,
        task=data.task,
        batch_size=batch_size // accumulate,
        crop_scale=WHOLE_IMAGES,
        model=classifier.config,
        start=weights_digest(classifier.features)[:16],
        data=rows_digest([*data.train, *data.validation]),
        train_samples=len(data.train),
        validation_samples=len(data.validation),
    )
    return replace(run, output_dir=folder / f"seed-{seed}-{_run_digest(run)}")


def _batches_of_step(batch_size: int, at_once: int) -> int:
    """The smallest number of equal batches of at most ``at_once`` samples that make a batch."""
    return next(
        n for n in range(1, batch_size + 1) if not batch_size % n and batch_size / n <= at_once
    )


def _run_digest(run: SuiteRun) -> str:
    """Identifies a run by everything that decides its result."""
    fields = json.loads(TypeAdapter(SuiteRun).dump_json(run))
    free = FREE_ON_RESUME - {"max_steps", "validate_every", "validation_tolerance"}
    text = json.dumps({name: v for name, v in fields.items() if name not in free}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _train(classifier: Classifier, data: FineTuningData, run: SuiteRun, workers: int) -> None:
    """Train to the end, from the last checkpoint if there is one."""
    rows = LabelledRows(
        kind=data.kind,
        rows=tuple(data.train),
        skips=SkipCounter(data.task, "the training data", "correct the data"),
    )

    def score(outputs: RowOutputs) -> dict[str, float]:
        return data.score(_complete(outputs, data.task), outputs.rows)

    try:
        fine_tune(classifier, run, rows, data.validation, score, upright=False, workers=workers)
    except Interrupted as error:
        step = load_progress(run.output_dir / "checkpoints" / "last").step
        raise Interrupted(
            f"{data.task} was stopped after {step} of {run.max_steps} steps of its fine-tuning: "
            "the same command goes on from there"
        ) from error


def _complete(outputs: RowOutputs, task: str) -> Float[Tensor, "rows outputs"]:
    """The outputs of all rows.

    Raises:
        ValueError: some rows cannot be decoded; they are named.
    """
    if not outputs.skipped:
        return outputs.values
    named = "".join(f"\n  {each}" for each in outputs.skipped[:SHOWN])
    more = len(outputs.skipped) - SHOWN
    raise ValueError(
        f"{task}: {len(outputs.skipped)} samples cannot be decoded, and a figure without them "
        f"would be another one; correct the data:{named}"
        + (f"\n  and {more} more" if more > 0 else "")
    )

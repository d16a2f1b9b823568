"""`flava finetune`: train a classifier of the user's own images, texts or pairs end to end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch.nn import functional

from flava.core.constraints import Fraction
from flava.data.transforms import ImageTransformConfig
from flava.finetuning.fine_tuner import VALIDATIONS, FineTunerConfig, fine_tune, load_best
from flava.finetuning.own_data import (
    LabelledConfig,
    OwnData,
    evaluate_and_save,
    load_own_data,
    skipped_notes,
)
from flava.inference.row_outputs import RowOutputs
from flava.models import ClassifierConfig, classifier_of
from flava.models.classifier import PAIR_HIDDEN_WIDTH
from flava.training.checkpoint import step_name
from flava.training.optimizer import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelledConfig):
    """Settings of fine-tuning; the defaults suit hundreds to thousands of samples.

    The paper's settings for SNLI-VE and Hateful Memes are 24,000 steps of 256 samples, of which
    2,000 are warm-up, at a learning rate of 1e-5 with a weight decay of 1e-2.
    """

    epochs: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 10.0
    """How many times each training sample is used."""
    batch_size: PositiveInt = 32
    """Samples in a batch."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=5e-5, weight_decay=1e-2, max_grad_norm=1.0)
    )
    """Settings of AdamW. Narrow models learn sooner with a larger lr."""
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 1 / 12
    """Share of the steps over which the learning rate rises from 0 to its peak (the paper: 2,000 of
    24,000)."""
    crop_scale: tuple[Fraction, Fraction] = ImageTransformConfig().crop_scale
    """Smallest and largest share of an image's area in a training crop; 1 1 trains on whole
    images."""
    workers: NonNegativeInt = 1
    """Processes that read the data; with 0 the training process reads it."""
    resume: bool = False
    """Continue from the last checkpoint in output_dir, if there is one."""

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields or elements; see `config_errors`."""
        low, high = self.crop_scale
        if 0 < low <= high:
            return []
        return [
            f"{prefix}crop_scale is {self.crop_scale}: use two numbers in (0, 1], the lower first"
        ]


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(FineTunerConfig):
    """Everything that decides the result of `flava finetune`: a run's saved configuration."""

    recipe: Annotated[str, tyro.conf.Suppress] = "finetune"
    start: str
    """The model that is fine-tuned."""
    data: Path
    validation: Path | None
    validation_fraction: float
    epochs: float
    digest: str
    """Identifies the samples with their labels, and the split."""


def finetune(config: FinetuneConfig) -> str:
    """Fine-tune a model, or resume its fine-tuning; returns a summary to be printed.

    Raises:
        ValueError: something in the configuration or the data is wrong; all of it in one error.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    data = load_own_data(config)
    kind = data.train.kind
    torch.manual_seed(config.seed)
    classifier = classifier_of(
        data.model, kind, data.classes, hidden_width=PAIR_HIDDEN_WIDTH if kind == "pairs" else None
    )
    run = _run_of(config, data, classifier.config)
    skips = fine_tune(
        classifier,
        run,
        data.train,
        data.validation.rows,
        partial(_accuracy_and_loss, classes=data.classes),
        upright=True,
        workers=config.workers,
    )
    step = load_best(classifier, run.output_dir)
    validations = math.ceil(run.max_steps / run.validate_every)
    note = (
        f"The checkpoint is that of step {step:,}, the best of {validations} validations on these "
        "very samples: the figures are slightly too good."
    )
    summary = evaluate_and_save(
        classifier,
        data,
        config,
        method="finetune",
        notes=[*([note] if validations > 1 else []), *skipped_notes(skips)],
        settings={
            "start": config.model,
            "parameters": sum(p.numel() for p in classifier.parameters()),
            "train_samples": run.train_samples,
            "checkpoint": step_name(step),
        },
    )
    return f"{summary}\nclassifier: {run.output_dir / 'checkpoints' / 'best'}"


def _run_of(config: FinetuneConfig, data: OwnData, model: ClassifierConfig) -> FinetuneRun:
    """The whole configuration of a run."""
    batch_size = min(config.batch_size, len(data.train))
    max_steps = math.ceil(config.epochs * len(data.train) / batch_size)
    every = math.ceil(max_steps / VALIDATIONS)
    return FinetuneRun(
        output_dir=config.output_dir,
        max_steps=max_steps,
        seed=config.seed,
        resume=config.resume,
        optimizer=config.optimizer,
        schedule=ScheduleConfig(warmup_steps=round(config.warmup_fraction * max_steps)),
        precision=config.precision,
        validate_every=every,
        checkpoint_every=every,
        start=config.model,
        data=config.data,
        validation=config.validation,
        validation_fraction=config.validation_fraction,
        epochs=config.epochs,
        batch_size=batch_size,
        crop_scale=config.crop_scale,
        model=model,
        train_samples=len(data.train),
        validation_samples=len(data.validation),
        digest=data.digest,
    )


def _accuracy_and_loss(outputs: RowOutputs, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy and cross-entropy of those validation rows that can be decoded.

    Raises:
        ValueError: none can.
    """
    if not outputs.rows:
        raise ValueError(
            f"no validation sample can be decoded, for example {outputs.skipped[0]}: correct "
            "the data"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([numbers[row.label or ""] for row in outputs.rows])
    return {
        "validation_accuracy": (outputs.values.argmax(dim=1) == labels).float().mean().item(),
        "validation_loss": functional.cross_entropy(outputs.values, labels).item(),
    }

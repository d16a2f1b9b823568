"""`flava finetune`: a classifier of one's own images, texts or pairs, trained end to end."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn
from torch.nn import functional

from flava.checkpoints.native import fill_own
from flava.checkpoints.reading import find_checkpoint, read_path
from flava.core.precision import Precision
from flava.data.labelled import LabelledRows
from flava.data.labelled_loader import RowReader
from flava.data.transforms import ImageTransformConfig
from flava.finetuning.fine_tuner import train_on
from flava.finetuning.own_data import LabelledConfig, Prepared, finish, prepare, skip_notes
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import reader_of, row_outputs
from flava.models import Classifier, ClassifierConfig, classifier_of
from flava.models.classifier import PAIR_HIDDEN_WIDTH
from flava.objectives import FinetuneObjective
from flava.objectives.objective import Validate
from flava.training.checkpoint import load_progress
from flava.training.launch import keep_freed_memory
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import TrainerConfig
from flava.training.run_folder import check
from flava.training.trainer import Trainer

LOOKS = 10
"""Looks at the validation data over a run: few, since the best of many would be luck."""

CROP_SCALE = ImageTransformConfig().crop_scale


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelledConfig):
    """Fine-tuning; the defaults are for one's own hundreds to thousands of samples.

    The paper's, for SNLI-VE and Hateful Memes, are 24,000 updates of 256 samples at a learning rate
    of 1e-5, of which 2,000 are warm-up, with a weight decay of 1e-2.
    """

    epochs: float = 10.0
    """Times that each sample is trained on."""
    batch_size: int = 32
    """Samples in a batch."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=5e-5, weight_decay=1e-2, max_grad_norm=1.0)
    )
    """AdamW's settings; narrow models learn sooner with a larger lr."""
    warmup_fraction: float = 1 / 12
    """Share of the updates over which the learning rate rises (the paper's 2,000 of 24,000)."""
    crop_scale: tuple[float, float] = CROP_SCALE
    """Share of an image's area in a training crop; (1, 1) trains on whole images."""
    workers: int = 1
    """Processes that read the data; 0 reads it in the training process."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, if there is one."""

    def problems(self) -> list[str]:
        low, high = self.crop_scale
        return (
            super().problems()
            + [
                f"{name} is {value}: use {remedy}"
                for name, value, holds, remedy in (
                    ("epochs", self.epochs, 0 < self.epochs < math.inf, "a positive number"),
                    ("batch_size", self.batch_size, self.batch_size >= 1, "at least 1"),
                    (
                        "warmup_fraction",
                        self.warmup_fraction,
                        0 <= self.warmup_fraction < 1,
                        "a number in [0, 1)",
                    ),
                    (
                        "crop_scale",
                        self.crop_scale,
                        0 < low <= high <= 1,
                        "two numbers in (0, 1], the lower first",
                    ),
                    ("workers", self.workers, self.workers >= 0, "0 or more"),
                )
                if not holds
            ]
            + self.optimizer.mistakes("optimizer")
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(TrainerConfig):
    """Everything that decides what a fine-tuning does: what is asked for, and what was found."""

    recipe: Annotated[str, tyro.conf.Suppress] = "finetune"
    start: str
    """The model that is fine-tuned."""
    data: Path
    validation: Path | None
    validation_fraction: float
    epochs: float
    batch_size: int
    crop_scale: tuple[float, float]
    model: ClassifierConfig
    """Geometry of the classifier, and the classes."""
    train_samples: int
    validation_samples: int
    digest: str
    """Names the samples with their labels, and the split."""


def run_of(config: FinetuneConfig, prepared: Prepared, model: ClassifierConfig) -> FinetuneRun:
    """The whole configuration of a run."""
    batch_size = min(config.batch_size, len(prepared.train))
    max_steps = math.ceil(config.epochs * len(prepared.train) / batch_size)
    every = math.ceil(max_steps / LOOKS)
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
        train_samples=len(prepared.train),
        validation_samples=len(prepared.validation),
        digest=prepared.digest,
    )


def finetune(config: FinetuneConfig) -> str:
    """Fine-tune a model, or go on with it; returns what came out, to be printed.

    Raises:
        ValueError: something in the configuration or the data does not hold; all in one error.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    prepared = prepare(config)
    keep_freed_memory()
    torch.manual_seed(config.seed)
    kind = prepared.train.kind
    hidden_width = PAIR_HIDDEN_WIDTH if kind == "pairs" else None
    classifier = classifier_of(prepared.model, kind, prepared.classes, hidden_width=hidden_width)
    run = run_of(config, prepared, classifier.config)
    reader = reader_of(classifier.config.encoder, config.crop_scale)
    probe = validation_probe(prepared.validation, reader, config.precision)
    check(run)
    trainer = Trainer(run, FinetuneObjective(classifier), probe)
    skips = train_on(trainer, classifier, prepared.train, reader, run.batch_size, config.workers)
    return finish_best(classifier, prepared, config, run, skip_notes(skips))


def finish_best(
    classifier: Classifier,
    prepared: Prepared,
    config: FinetuneConfig,
    run: FinetuneRun,
    notes: list[str],
) -> str:
    """Judge the best checkpoint, and say how it was chosen."""
    best = find_checkpoint(run.output_dir)
    fill_own(classifier, read_path(best))
    step = load_progress(best).step
    looks = math.ceil(run.max_steps / run.validate_every)
    note = (
        f"The checkpoint is that of update {step:,}, the best of {looks} looks at these very "
        "validation samples: the figures flatter it a little."
    )
    settings = {
        "start": config.model,
        "parameters": sum(p.numel() for p in classifier.parameters()),
        "train_samples": run.train_samples,
        "checkpoint": best.resolve().name,
    }
    said = finish(
        classifier,
        prepared,
        config,
        method="finetune",
        notes=[note, *notes] if looks > 1 else notes,
        settings=settings,
    )
    return f"{said}\nclassifier: {best}"


def validation_probe(rows: LabelledRows, reader: RowReader, precision: Precision) -> Validate:
    """(model, step) -> accuracy and loss on the validation rows."""

    def probe(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        assert isinstance(model, Classifier)
        outputs = row_outputs(FeatureExtractor(model, precision), rows.rows, reader)
        if not outputs.rows:
            raise ValueError(
                f"no validation sample can be decoded, for example {outputs.skipped[0]}: correct "
                "the data"
            )
        number = {name: index for index, name in enumerate(model.config.classes)}
        labels = torch.tensor([number[row.label or ""] for row in outputs.rows])
        return {
            "validation_accuracy": (outputs.values.argmax(dim=1) == labels).float().mean().item(),
            "validation_loss": functional.cross_entropy(outputs.values, labels).item(),
        }

    return probe

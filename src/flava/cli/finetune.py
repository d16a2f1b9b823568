"""`flava finetune`, `flava probe` and `flava predict`: classifiers of the user's own data."""

from typing import Annotated

import tyro

from flava.finetuning.finetune import FinetuneConfig
from flava.finetuning.finetune import finetune as finetune_model
from flava.finetuning.probe import PredictConfig, ProbeConfig
from flava.finetuning.probe import predict as predict_data
from flava.finetuning.probe import probe as probe_model
from flava.reports.classifier_report import write_classification_report

FLAT = (tyro.conf.arg(name=""), tyro.conf.EnumChoicesFromValues)
"""The fields of the one argument are the command's options."""


def finetune(config: Annotated[FinetuneConfig, *FLAT]) -> None:
    """Train a classifier of your own images, texts or pairs, on top of a model."""
    print(finetune_model(config))
    print(f"report: {write_classification_report(config.output_dir)}")


def probe(config: Annotated[ProbeConfig, *FLAT]) -> None:
    """Fit a linear classifier on a model's frozen features of your own images, texts or pairs."""
    print(probe_model(config))
    print(f"report: {write_classification_report(config.output_dir)}")


def predict(config: Annotated[PredictConfig, *FLAT]) -> None:
    """Classify images, texts or pairs with what `flava finetune` or `flava probe` made."""
    print(predict_data(config))

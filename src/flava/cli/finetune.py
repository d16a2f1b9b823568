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
"""For tyro: the fields of the only argument become the options of the command."""


def finetune(config: Annotated[FinetuneConfig, *FLAT]) -> None:
    """Train a classifier of your own images, texts or pairs, starting from a pretrained model."""
    print(finetune_model(config))
    print(f"report: {write_classification_report(config.output_dir)}")


def probe(config: Annotated[ProbeConfig, *FLAT]) -> None:
    """Fit a linear classifier to a frozen model's features of your own images, texts or pairs."""
    print(probe_model(config))
    print(f"report: {write_classification_report(config.output_dir)}")


def predict(config: Annotated[PredictConfig, *FLAT]) -> None:
    """Classify images, texts or pairs with a classifier of `flava finetune` or `flava probe`."""
    print(predict_data(config))

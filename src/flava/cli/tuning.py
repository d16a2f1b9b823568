"""`flava finetune`, `flava probe` and `flava predict`: classifiers of one's own data."""

from typing import Annotated

import tyro

from flava.recipes.finetune import FinetuneConfig
from flava.recipes.finetune import finetune as finetune_model
from flava.recipes.predict import PredictConfig
from flava.recipes.predict import predict as predict_data
from flava.recipes.probe import ProbeConfig
from flava.recipes.probe import probe as probe_model

FLAT = (tyro.conf.arg(name=""), tyro.conf.EnumChoicesFromValues)
"""A command's options are the fields of its one configuration."""


def finetune(config: Annotated[FinetuneConfig, *FLAT]) -> None:
    """Train a classifier of your own images, texts or pairs, on top of a model."""
    print(finetune_model(config))


def probe(config: Annotated[ProbeConfig, *FLAT]) -> None:
    """Fit a linear classifier on a model's frozen features of your own images, texts or pairs."""
    print(probe_model(config))


def predict(config: Annotated[PredictConfig, *FLAT]) -> None:
    """Classify images, texts or pairs with what `flava finetune` or `flava probe` made."""
    print(predict_data(config))

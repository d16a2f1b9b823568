"""The base classes of all models and of their configurations."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from flava.core.constraints import check_config


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Geometry of a model. A subclass is the configuration of one class of models.

    Raises:
        ValueError: fields are out of range, or do not fit each other; all of them are listed.
    """

    def __post_init__(self) -> None:
        check_config(self, "the model's geometry does not hold")


class Model(nn.Module):
    """A model that is made from its configuration alone, and that checkpoints hold beside it."""

    config: Any
    """A `ModelConfig`; each subclass names its own kind."""


class EncoderModel(Model):
    """A model with an encoder of images or of texts, which can be evaluated."""

    missing_parts: frozenset[str]
    """Of the parts of a FLAVA those that it does not have, or has at initial values only. Their
    names are in `flava.models.flava.PARTS`."""


def model_classes() -> dict[type[ModelConfig], type[Model]]:
    """Every class of models that was imported, by the class of its configuration."""
    classes = {*Model.__subclasses__(), *EncoderModel.__subclasses__()} - {EncoderModel}
    return {each.__annotations__["config"]: each for each in classes}

"""`flava train`: a recipe, with any field of its run changed."""

from typing import Annotated, Any, Union

import tyro

from flava.model import (
    ClipConfig,
    CodebookConfig,
    DinoConfig,
    FlavaConfig,
    MaskedImageConfig,
    MaskedTextConfig,
)
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.training.run import Run

SHOWN_AS = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
"""Unions keep the recipe's choice, and enums are written as in run.json."""

FOLLOWING = {
    FlavaConfig: "flava evaluate",
    ClipConfig: "flava evaluate",
    CodebookConfig: "flava train flava-tiny --init.codebook",
    MaskedImageConfig: "flava train flava-tiny --init.image",
    DinoConfig: "flava train flava-tiny --init.image",
    MaskedTextConfig: "flava train flava-tiny --init.text",
}
"""What to do with a trained model, before its folder."""


def recipe_choice() -> Any:
    """The type of "one of the recipes, with any field of its run changed"."""
    choices = []
    for name, recipe in RECIPES.items():
        about = (recipe.__doc__ or "").splitlines()[0]
        config = tyro.conf.subcommand(name, default=recipe(), description=about)
        choices.append(Annotated[Run, config])
    one = Union[tuple(choices)]  # noqa: UP007
    return Annotated[one, tyro.conf.arg(name=""), *SHOWN_AS]


def train(run: Run) -> None:
    """Train a recipe, or go on with an interrupted run (--resume)."""
    start(run)
    print(f"trained: {run.output_dir}. Next: {FOLLOWING[type(run.model)]} {run.output_dir}")


train.__annotations__["run"] = recipe_choice()

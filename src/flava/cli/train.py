"""`flava train`: a recipe, with any field of its run changed."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Union

import tyro

from flava.cli import exit_status_of
from flava.core.distributed import rank_from_environment
from flava.models import (
    ClipConfig,
    CodebookConfig,
    DinoConfig,
    FlavaConfig,
    MaskedImageConfig,
    MaskedTextConfig,
)
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.training.launch import Interrupted, is_rank, launch
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


def train(run: Run, processes: int = 1, max_restarts: int = 0) -> None:
    """Train a recipe, or go on with an interrupted run (--resume).

    Args:
        run: The recipe.
        processes: Processes on this machine that train together, each with its share of every
            batch. Leave it out under torchrun, which says so itself.
        max_restarts: How often the processes are started again from the last checkpoint when one
            of them fails.
    """
    if processes == 1:
        train_rank(run)
        return
    if problems := launching_problems(processes, max_restarts):
        raise ValueError("flava train cannot start:\n  " + "\n  ".join(problems))
    with ending_well():
        launch(begin, run, processes, max_restarts)


def launching_problems(processes: int, max_restarts: int) -> list[str]:
    """What is wrong with the processes to start, one line each."""
    found = []
    if processes < 1:
        found.append(f"processes is {processes}: use at least 1")
    if max_restarts < 0:
        found.append(f"max_restarts is {max_restarts}: use 0 or more")
    if is_rank():
        found.append(
            f"processes is {processes}, but torchrun has started this one as one of its own: leave "
            "--processes out"
        )
    return found


def begin(run: Run) -> None:
    """What each process of `launch` does: it says what went wrong as the command does."""
    try:
        status = exit_status_of(lambda: train_rank(run))
    except Exception:  # what nobody expected: the launcher would say that it ended, and not why
        traceback.print_exc()
        status = 1
    if status:
        sys.exit(status)


def train_rank(run: Run) -> None:
    """Train alone, or as one of several ranks."""
    with ending_well():
        start(run)
        if rank_from_environment() == 0:
            print(f"trained: {run.output_dir}. Next: {FOLLOWING[type(run.model)]} {run.output_dir}")


@contextmanager
def ending_well() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, is no failure once the checkpoint is written."""
    try:
        yield
    except Interrupted as stop:
        if stop.number != signal.SIGTERM:
            raise
        if rank_from_environment() == 0:
            print(f"flava: {stop}", file=sys.stderr)


train.__annotations__["run"] = recipe_choice()

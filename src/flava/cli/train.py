"""`flava train`: trains a recipe; every field of it can be changed on the command line."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Union

import tyro

from flava.cli import exit_status_of
from flava.core.distributed import rank_from_environment
from flava.methods import method_of
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.training.launch import Interrupted, is_rank, launch
from flava.training.run import Run

SHOWN_AS = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
"""For tyro: a union keeps the type that the recipe chose, and enums are written as in run.json."""


def recipe_choice() -> Any:
    """A type for tyro: a subcommand for each recipe, with an option for each of its fields."""
    choices = []
    for name, recipe in RECIPES.items():
        about = (recipe.__doc__ or "").splitlines()[0]
        config = tyro.conf.subcommand(name, default=recipe(), description=about)
        choices.append(Annotated[Run, config])
    one = Union[tuple(choices)]  # noqa: UP007
    return Annotated[one, tyro.conf.arg(name=""), *SHOWN_AS]


def train(run: Run, processes: int = 1, max_restarts: int = 0) -> None:
    """Train a recipe, or continue an interrupted run (--resume).

    Args:
        run: The recipe.
        processes: Number of processes on this machine that train together, each with its share of
            every batch. Leave it out under torchrun, which starts the processes itself.
        max_restarts: How often all processes are started again from the last checkpoint after one
            of them failed. Only with --processes.
    """
    if processes == 1:
        _train_rank(run)
        return
    if errors := _launch_errors(processes, max_restarts):
        raise ValueError("flava train cannot start:\n  " + "\n  ".join(errors))
    with _sigterm_ends_well():
        launch(_train_in_child, run, processes, max_restarts)


def _launch_errors(processes: int, max_restarts: int) -> list[str]:
    """What is wrong with the options for several processes, one line each."""
    found = []
    if processes < 1:
        found.append(f"processes is {processes}: use at least 1")
    if max_restarts < 0:
        found.append(f"max_restarts is {max_restarts}: use 0 or more")
    if is_rank():
        found.append(
            f"processes is {processes}, but torchrun has started this process as one of several: "
            "leave --processes out"
        )
    return found


def _train_in_child(run: Run) -> None:
    """Train in a process that `launch` started; it reports errors as the command itself does."""
    try:
        status = exit_status_of(lambda: _train_rank(run))
    except Exception:  # unexpected: the launcher only reports that the process ended, not why
        traceback.print_exc()
        status = 1
    if status:
        sys.exit(status)


def _train_rank(run: Run) -> None:
    """Train alone, or as one of several ranks."""
    with _sigterm_ends_well():
        start(run)
        if rank_from_environment() == 0:
            following = method_of(run.model).next_command
            print(f"trained: {run.output_dir}. Next: {following} {run.output_dir}")


@contextmanager
def _sigterm_ends_well() -> Iterator[None]:
    """End normally on SIGTERM, with which schedulers stop a job: a checkpoint has been written."""
    try:
        yield
    except Interrupted as stop:
        if stop.number != signal.SIGTERM:
            raise
        if rank_from_environment() == 0:
            print(f"flava: {stop}", file=sys.stderr)


train.__annotations__["run"] = recipe_choice()

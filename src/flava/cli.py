"""The command line: `flava train`, `flava evaluate`, `flava report`."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

# Before torch starts its threads: by default each spins for a millisecond at the end of every
# operation, and where another process has its core the rest wait. A pair update took 2.5 s for
# 4.8 s on a machine in use, and as long as before on a quiet one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import tyro

from flava.evaluation import evaluate_run, write_report
from flava.model import FlavaConfig
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.training.loop import Interrupted
from flava.training.run import Run

SHOWN_AS = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
"""Unions keep the recipe's choice, and enums are written as in run.json."""


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
    is_flava = isinstance(run.model, FlavaConfig)
    following = "flava evaluate" if is_flava else "flava train flava-tiny --codebook"
    print(f"trained: {run.output_dir}. Next: {following} {run.output_dir}")


def evaluate(run: tyro.conf.Positional[Path]) -> None:
    """Evaluate a run on held-out data, and write RUN/evaluation.json.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir.
    """
    print(evaluate_run(run))


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write RUN/report.html: curves, figures beside their baselines, and pictures.

    Args:
        run: The run's folder, as given to `flava train` with --output-dir.
    """
    print(f"report: {write_report(run)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 after an error, or 130 after Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    train.__annotations__["run"] = recipe_choice()
    commands = {"train": train, "evaluate": evaluate, "report": report}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="flava",
            description="FLAVA: one model for images, texts and both together.",
            args=arguments,
        )
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"flava: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"flava: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line: one module for each group of commands."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

# Before torch starts its threads: by default each spins for a millisecond at the end of every
# operation, and where another process has its core the rest wait. A pair update took 2.5 s for
# 4.8 s on a machine in use, and as long as before on a quiet one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import tyro

from flava.cli.conversion import convert
from flava.cli.data import data
from flava.cli.evaluation import evaluate, report
from flava.cli.masked import fill_mask, reconstruct
from flava.cli.messages import reporting
from flava.cli.recipes import recipes
from flava.cli.reproduction import reproduce
from flava.cli.searching import search
from flava.cli.tables import classify, embed, match
from flava.cli.training import train
from flava.cli.tuning import finetune, predict, probe

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "recipes": recipes,
    "reproduce": reproduce,
    "evaluate": evaluate,
    "report": report,
    "data": data,
    "convert": convert,
    "embed": embed,
    "classify": classify,
    "match": match,
    "search": search,
    "fill-mask": fill_mask,
    "reconstruct": reconstruct,
    "finetune": finetune,
    "probe": probe,
    "predict": predict,
}
"""In the order that `flava --help` lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 after an error, or 130 after Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return reporting(
        lambda: tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="flava",
            description="FLAVA: one model for images, texts and both together.",
            args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
    )

"""`flava reproduce`: the paper's comparison of models at small scale, in one command."""

from typing import Annotated

import tyro

from flava.reproduction.reproduce import ReproduceConfig
from flava.reproduction.reproduce import reproduce as run_reproduction


def reproduce(config: Annotated[ReproduceConfig, tyro.conf.arg(name="")]) -> None:
    """Train and evaluate small versions of all columns of Table C.1, and compare them.

    Run the same command again to go on after an interruption or a failure: finished trainings and
    evaluations are skipped.
    """
    print(f"report: {run_reproduction(config)}")

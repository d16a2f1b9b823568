"""`flava reproduce`: the paper's comparison, in one command."""

from typing import Annotated

import tyro

from flava.reproduction.reproduce import ReproduceConfig
from flava.reproduction.reproduce import reproduce as run


def reproduce(config: Annotated[ReproduceConfig, tyro.conf.arg(name="")]) -> None:
    """Train the stages and columns of Table C.1 as small twins, evaluate them, compare them.

    What is done is skipped: the same command goes on where it was stopped.
    """
    print(f"report: {run(config)}")

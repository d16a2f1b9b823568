"""Weights & Biases, for a run that asks for it."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter

from flava.training.files import write_whole
from flava.training.run import LoopConfig

NAMED_IN = "wandb-id"
"""The file in a run's folder by which it is the same run there when it goes on."""


class Tracker:
    """Tells a project of Weights & Biases every figure of a run.

    Raises:
        ValueError: the library is not installed.
    """

    def __init__(self, run: LoopConfig) -> None:
        self.run: Any = library().init(
            project=run.wandb,
            id=identity(run.output_dir),
            resume="allow",
            name=run.output_dir.name,
            dir=run.output_dir,
            config=TypeAdapter(type(run)).dump_python(run, mode="json"),
        )
        # Its own count must not go back, which that of a run which goes on does.
        self.run.define_metric("*", step_metric="step")

    def write(self, row: Mapping[str, float | int | str | None]) -> None:
        self.run.log({name: value for name, value in row.items() if value is not None})

    def close(self) -> None:
        self.run.finish()


def library() -> Any:
    try:
        return importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ValueError(
            "wandb is set, but Weights & Biases is not installed: pip install 'flava[wandb]', or "
            "leave it out"
        ) from error


def identity(folder: Path) -> str:
    path = folder / NAMED_IN
    if not path.exists():
        write_whole(path, uuid4().hex[:8].encode())
    return path.read_text()

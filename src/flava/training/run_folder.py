"""Checks that all ranks may start or resume a run in its folder, and claims the folder for it."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

import torch
from pydantic import TypeAdapter

from flava.core.distributed import gather_objects, raise_on_rank_0, rank, world_size
from flava.training.checkpoint import delete_incomplete, last_checkpoint
from flava.training.trainer_config import (
    TrainerConfig,
    differences,
    flatten,
    load_config,
    save_config,
)

PATIENCE = 5.0
"""Seconds until a file that another machine wrote must be visible: network file systems cache
folders."""


def check(run: TrainerConfig, errors: Sequence[str] = ()) -> None:
    """Make sure that all ranks can start or resume this run.

    ``errors`` are those that the caller has found, one line each.

    Raises:
        ValueError: they cannot; the errors of all ranks are listed.
        OSError: the folder cannot be made.
    """
    found = [*errors, *_folder_errors(run)]
    if world_size() > 1:
        found = _lines_of_ranks(found) + _disagreements(run) + _unshared(run.output_dir)
    if found:
        raise_on_rank_0(ValueError("the run cannot start:\n  " + "\n  ".join(found)))


def claim(run: TrainerConfig) -> None:
    """Make the folder, and write the run's configuration into it; call `check` before.

    Raises:
        OSError: the folder cannot be made.
    """
    if rank() == 0:
        _make(run.output_dir)
        checkpoints = run.output_dir / "checkpoints"
        if checkpoints.is_dir():
            delete_incomplete(checkpoints)
        save_config(run, run.output_dir / "run.json")
    gather_objects(None)  # no rank may write before that


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"output_dir {folder} cannot be made ({error.strerror}): choose another folder with "
            "--output-dir"
        ) from error


def _folder_errors(run: TrainerConfig) -> list[str]:
    """Why the run cannot use its folder: a run is in it already, or one with other settings."""
    folder = run.output_dir
    try:
        if last_checkpoint(folder) is None:
            return []
        if not run.resume:
            return [
                f"output_dir {folder} already holds a run: add --resume to continue it, or "
                "choose another folder with --output-dir"
            ]
        found = differences(load_config(folder / "run.json", type(run)), run)
    except (OSError, ValueError) as error:
        return [str(error)]
    if not found:
        return []
    return [
        f"the run in {folder} is another one; to resume it leave these as they were, or choose "
        "another --output-dir:",
        *(f"  {line}" for line in found),
    ]


def _lines_of_ranks(lines: list[str]) -> list[str]:
    """The lines of all ranks, each once."""
    return list(dict.fromkeys(line for each in gather_objects(lines) for line in each))


def _disagreements(run: TrainerConfig) -> list[str]:
    """Where other ranks have another configuration or code than rank 0, one line each."""
    config = flatten(json.loads(TypeAdapter(type(run)).dump_json(run)))
    every = gather_objects((config, _code_version()))
    first, code = every[0]
    found = []
    for number, (other, version_there) in enumerate(every[1:], 1):
        found += [
            f"{name}: {first.get(name)} on rank 0, {other.get(name)} on rank {number}: start all "
            "ranks with the same command"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if version_there != code:
            found.append(
                f"rank 0 runs {code}, rank {number} {version_there}: install the same on every "
                "machine"
            )
    return found


@cache
def _code_version() -> str:
    """The versions of this package and of torch, with a digest of this package's source."""
    source = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return f"flava {version('flava')} ({source.hexdigest()[:12]}) on torch {torch.__version__}"


def _unshared(folder: Path) -> list[str]:
    """A line if some ranks do not see a file that rank 0 writes to the folder."""
    mark = folder / f".mark-{uuid4().hex}"
    problem = None
    if rank() == 0:
        try:
            _make(folder)
            mark.touch()
        except OSError as error:
            problem = str(error)
    problem, name = gather_objects((problem, mark.name))[0]
    if problem:
        return [problem]
    blind = [
        number for number, sees in enumerate(gather_objects(_appears(folder / name))) if not sees
    ]
    if rank() == 0:
        mark.unlink()
    if not blind:
        return []
    return [
        f"output_dir {folder} is not the same folder on all machines: rank 0 wrote a file there "
        f"that ranks {', '.join(map(str, blind))} do not see. Choose a shared one with --output-dir"
    ]


def _appears(path: Path) -> bool:
    """Whether a file can be seen within ``PATIENCE``."""
    deadline = monotonic() + PATIENCE
    while not path.exists():
        if monotonic() > deadline:
            return False
        sleep(0.1)
    return True

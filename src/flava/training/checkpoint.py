"""Checkpoints: a folder with the model in our layout, and the state to go on from.

A checkpoint is written beside the others under a temporary name and renamed when it is whole, so a
run that is killed at any moment, or whose disk fills up, keeps its last good one. ``last`` and
``best`` are links to the folders they stand for.
"""

import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from flava.files import whole_folder
from flava.model.published.own import OwnModel, write_model


def step_name(step: int) -> str:
    """The folder of the checkpoint after so many updates."""
    return f"step-{step:06d}"


def save_checkpoint(
    folder: Path, name: str, model: OwnModel, state: dict[str, Any] | None = None
) -> Path:
    """Write ``folder/name`` as a whole or not at all, and return it.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    target = folder / name
    with whole_folder(target) as partial:
        write_model(model, partial)
        if state is not None:
            torch.save(state, partial / "state.pt")
    return target


def point(folder: Path, link: str, name: str) -> None:
    """Let ``folder/link`` stand for ``folder/name``, atomically; drop what no link stands for."""
    fresh = folder / f".{link}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / link)
    linked = {path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in linked:
            shutil.rmtree(path)


def last_checkpoint(run_folder: Path) -> Path | None:
    """The checkpoint that a run would go on from."""
    last = run_folder / "checkpoints" / "last"
    return last if last.exists() else None


def load_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds besides the model.

    Raises:
        FileNotFoundError: the checkpoint was made to be used, not to be gone on from.
        ValueError: the file is damaged.
    """
    path = folder / "state.pt"
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it anew, or train again in another --output-dir"
        ) from error


def keep_best(run_folder: Path) -> None:
    """Keep the best checkpoint of a finished run alone, to be used and not to be gone on from."""
    folder = run_folder / "checkpoints"
    best = (folder / "best").readlink().name
    point(folder, "last", best)
    (folder / best / "state.pt").unlink(missing_ok=True)

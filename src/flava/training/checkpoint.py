"""Checkpoints: a folder with the model in our layout, and the state to go on from.

``model.safetensors`` and ``config.json`` are the whole model. ``progress.json`` says how far the
run was, and ``state/`` holds the tensors of optimiser and random generators, as
torch.distributed.checkpoint writes them: any number of ranks can read what any number wrote.

A checkpoint is written beside the others under a hidden name and renamed when it is whole, and what
is dropped is hidden before it is deleted. So whatever happens, what can be seen is whole. ``last``
and ``best`` are links to the folders they stand for.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from flava.data.loader import SourceMarks
from flava.data.stream import Mark
from flava.files import whole_folder
from flava.model.published.own import OwnModel, write_model

STATE = "state"
"""The folder of tensors."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run was when a checkpoint was written; at first, nowhere."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    """Updates made."""
    seconds: float = 0.0
    """What they took."""
    best: float | None = None
    """The highest figure of the probe, if it was asked."""
    best_of: str | None = None
    """What that figure is of: the run's ``judged_by``."""
    non_finite: int = 0
    """Updates that were left out, among those made."""
    ranks: int = 1
    """How many processes trained."""
    marks: dict[str, dict[int, Mark]] = field(default_factory=dict)
    """Where the streams of each source stood, whichever rank read them: see `Loader`."""


PROGRESS = TypeAdapter(Progress)


def joined_marks(of_ranks: Iterable[SourceMarks]) -> dict[str, dict[int, Mark]]:
    """Of each stream the furthest mark: a rank keeps old ones of streams that others read."""
    found: dict[str, dict[int, Mark]] = {}
    for marks in of_ranks:
        for source, streams in marks.items():
            known = found.setdefault(source, {})
            for number, mark in streams.items():
                if number not in known or known[number].samples < mark.samples:
                    known[number] = mark
    return found


def step_name(step: int) -> str:
    """The folder of the checkpoint after so many updates."""
    return f"step-{step:06d}"


def save_checkpoint(folder: Path, name: str, model: OwnModel) -> Path:
    """Write a model that is to be used, and not to be gone on from, as a whole or not at all.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    target = folder / name
    with whole_folder(target) as partial:
        write_model(model, partial)
    return target


def write_progress(progress: Progress, folder: Path) -> None:
    (folder / "progress.json").write_bytes(PROGRESS.dump_json(progress, indent=2) + b"\n")


def load_progress(folder: Path) -> Progress:
    """Raises:
    FileNotFoundError: the checkpoint was made to be used, not to be gone on from.
    ValueError: the file is damaged.
    """
    path = folder / "progress.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no checkpoint to go on from, since it holds no {path.name}: train in "
            "another --output-dir"
        )
    try:
        return PROGRESS.validate_json(path.read_bytes())
    except ValueError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(
        f"{path} is damaged ({error}): copy it anew, or train again in another --output-dir"
    )


def publish(partial: Path, target: Path) -> None:
    """Give a checkpoint that is whole its name, once it is on the disk itself."""
    for path in (*partial.rglob("*"), partial):
        synchronise(path)
    if target.exists():  # the rest of a run that was killed
        drop(target)
    partial.replace(target)
    synchronise(target.parent)


def synchronise(path: Path) -> None:
    """Wait until a file or folder is on the disk, and survives the machine."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def point(folder: Path, link: str, name: str) -> None:
    """Let ``folder/link`` stand for ``folder/name``, atomically."""
    fresh = folder / f".{link}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / link)


def prune(folder: Path, keep: int) -> None:
    """Drop the checkpoints that no link stands for, but for the ``keep`` last."""
    linked = {path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    whole = [
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]
    whole.sort(key=lambda path: (len(path.name), path.name))  # a longer number is a larger one
    for path in whole[: max(0, len(whole) - keep)]:
        if path.name not in linked:
            drop(path)


def drop(checkpoint: Path) -> None:
    """Delete a checkpoint, hidden before it is in parts."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.dropped")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.replace(hidden)
    shutil.rmtree(hidden)


def clear_rests(folder: Path) -> None:
    """Delete what was being written, or deleted, when a run was killed."""
    for path in folder.glob(".*"):
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)


def last_checkpoint(run_folder: Path) -> Path | None:
    """The checkpoint that a run would go on from."""
    last = run_folder / "checkpoints" / "last"
    return last if last.exists() else None


def keep_best(run_folder: Path) -> None:
    """Keep the best checkpoint of a finished run alone, to be used and not to be gone on from."""
    folder = run_folder / "checkpoints"
    best = (folder / "best").readlink().name
    point(folder, "last", best)
    prune(folder, keep=0)
    shutil.rmtree(folder / best / STATE, ignore_errors=True)
    (folder / best / "progress.json").unlink(missing_ok=True)

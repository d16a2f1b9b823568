"""Checkpoints of a run: written while training goes on, found, kept and removed.

``model.safetensors`` and ``config.json`` are the whole model. ``progress.json`` says how far the
run was, and ``state/`` holds the tensors of optimiser and random generators, as
torch.distributed.checkpoint writes them: any number of ranks can read what any number wrote.

A checkpoint is written beside the others under a hidden name and renamed when it is whole, and what
is dropped is hidden before it is deleted. So whatever happens, what can be seen is whole. ``last``
and ``best`` are links to the folders they stand for.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from flava.checkpoints.native import write_model
from flava.core.distributed import is_connection_error, rank, world_size
from flava.core.files import atomic_folder
from flava.data.loader import SourcePositions
from flava.data.streaming import StreamPosition
from flava.models.config import Model

STATE = "state"
"""The folder of tensors."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a run was when a checkpoint was written; at first, nowhere."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    """Updates made."""
    seconds: float = 0.0
    """What they took."""
    best: float | None = None
    """The highest figure of the probe, if it was asked."""
    best_of: str | None = None
    """What that figure is of: the run's ``selection_metric``."""
    non_finite: int = 0
    """Updates that were left out, among those made."""
    ranks: int = 1
    """How many processes trained."""
    marks: dict[str, dict[int, StreamPosition]] = field(default_factory=dict)
    """Where the streams of each source stood, whichever rank read them: see `Loader`."""


PROGRESS = TypeAdapter(TrainingProgress)


def joined_marks(of_ranks: Iterable[SourcePositions]) -> dict[str, dict[int, StreamPosition]]:
    """Of each stream the furthest mark: a rank keeps old ones of streams that others read."""
    found: dict[str, dict[int, StreamPosition]] = {}
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


def save_checkpoint(folder: Path, name: str, model: Model) -> Path:
    """Write a model that is to be used, and not to be gone on from, as a whole or not at all.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    target = folder / name
    with atomic_folder(target) as partial:
        write_model(model, partial)
    return target


def write_progress(progress: TrainingProgress, folder: Path) -> None:
    (folder / "progress.json").write_bytes(PROGRESS.dump_json(progress, indent=2) + b"\n")


def load_progress(folder: Path) -> TrainingProgress:
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


class Writer:
    """Copies what a checkpoint is made of, and writes it in a thread of its own, one at a time.

    All ranks write their parts of the state. Rank 0 writes the model, and when every part is on the
    disk it gives the checkpoint its name, switches the links and drops what is old.
    """

    def __init__(self, folder: Path, keep: int, timeout: int) -> None:
        self.folder, self.keep = folder, keep
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.running: Future[None] | None = None
        # A group of its own: its messages must not mix with those of training.
        self.group: dist.ProcessGroup | None = None
        if world_size() > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            assert isinstance(group, dist.ProcessGroup)  # every rank is a member
            self.group = group

    def write(
        self,
        name: str,
        model: Model,
        weights: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        progress: TrainingProgress,
        links: Sequence[str],
    ) -> None:
        """Begin to write ``folder/name``, after the one before; ``weights`` are already a copy.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        partial = self.folder / f".{name}.partial"
        saved = async_save(
            dict(tensors),
            storage_writer=FileSystemWriter(partial / STATE),
            process_group=self.group,
        )
        assert isinstance(saved, Future)

        def finish() -> None:
            try:
                saved.result()
                if rank() > 0:
                    return
                write_model(model, partial, weights)
                write_progress(progress, partial)
                publish(partial, self.folder / name)
                for link in links:
                    point(self.folder, link, name)
                prune(self.folder, self.keep)
            except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
                # torch and safetensors report a full disk as errors of their own.
                if rank() == 0:
                    shutil.rmtree(partial, ignore_errors=True)
                if isinstance(error, RuntimeError) and is_connection_error(error):
                    raise
                raise OSError(
                    f"{self.folder / name} could not be written ({reason(error)}): free some "
                    "space there. The last checkpoint before it is whole, and --resume goes on "
                    "from it"
                ) from error

        self.running = self.thread.submit(finish)

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written, as far as this rank knows by now."""
        running = self.running
        return running is not None and running.done() and running.exception() is not None

    def failure(self) -> OSError:
        """What became of a checkpoint that some rank could not write."""
        try:
            self.wait()
        except OSError as error:
            return error
        return OSError(f"a rank could not write its part of a checkpoint in {self.folder}")

    def wait(self) -> None:
        """Until the last checkpoint is whole.

        Raises:
            OSError: it could not be written.
        """
        running, self.running = self.running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """As `wait`."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()


def reason(error: BaseException) -> str:
    """What the system said, without the traceback that torch puts around it."""
    if isinstance(error, CheckpointException) and error.failures:
        first = next(iter(error.failures.values()))
        return str(first[0])
    return str(error)

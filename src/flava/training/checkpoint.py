"""The checkpoints of a run: they are written in the background, found, pruned and read.

The folder of a checkpoint holds the model (``model.safetensors`` and ``config.json``), how far the
run was (``progress.json``), and the states of the optimizer and of the random generators
(``state/``, written by torch.distributed.checkpoint, so that any number of ranks can read it).

A checkpoint is written under a hidden name and renamed when it is complete. Before one is deleted,
it is renamed to a hidden name again. So every checkpoint with a visible name is complete, whatever
happens. ``last`` and ``best`` are symbolic links.
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
from flava.data.streaming import SourcePositions, StreamPosition
from flava.models.config import Model

STATE = "state"
"""The subfolder of optimizer and generator states."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a run was when a checkpoint was written; by default, at its start."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Seconds that they took."""
    best: float | None = None
    """The highest validation score so far, if there is one."""
    best_of: str | None = None
    """What that score is of: the run's ``selection_metric``."""
    non_finite: int = 0
    """Steps among them that were skipped, since a loss or gradient was not finite."""
    ranks: int = 1
    """Number of ranks."""
    marks: dict[str, dict[int, StreamPosition]] = field(default_factory=dict)
    """How far the streams of each source were read, by any rank: see `Loader`."""


PROGRESS = TypeAdapter(TrainingProgress)


def join_positions(of_ranks: Iterable[SourcePositions]) -> dict[str, dict[int, StreamPosition]]:
    """The furthest position of each stream: ranks have old ones of streams that others read."""
    joined: dict[str, dict[int, StreamPosition]] = {}
    for positions in of_ranks:
        for source, streams in positions.items():
            known = joined.setdefault(source, {})
            for stream, position in streams.items():
                if stream not in known or known[stream].samples < position.samples:
                    known[stream] = position
    return joined


def step_name(step: int) -> str:
    """The name of the folder of the checkpoint after ``step`` steps."""
    return f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written, by its folder's name or a link to it."""
    return int(checkpoint.resolve().name.removeprefix("step-"))


def save_checkpoint(folder: Path, name: str, model: Model) -> Path:
    """Write a checkpoint of a model without training state, atomically.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    target = folder / name
    with atomic_folder(target) as partial:
        write_model(model, partial)
    return target


def _write_progress(progress: TrainingProgress, folder: Path) -> None:
    (folder / "progress.json").write_bytes(PROGRESS.dump_json(progress, indent=2) + b"\n")


def load_progress(folder: Path) -> TrainingProgress:
    """Raises:
    FileNotFoundError: the checkpoint has no training state.
    ValueError: the file is damaged.
    """
    path = folder / "progress.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} cannot be resumed from, since it holds no {path.name}: train in another "
            "--output-dir"
        )
    try:
        return PROGRESS.validate_json(path.read_bytes())
    except ValueError as error:
        raise damaged_error(path, error) from error


def damaged_error(path: Path, error: BaseException) -> ValueError:
    return ValueError(
        f"{path} is damaged ({error}): copy it anew, or train again in another --output-dir"
    )


def _publish(partial: Path, target: Path) -> None:
    """Flush a complete checkpoint to the disk, and give it its name."""
    for path in (*partial.rglob("*"), partial):
        _fsync(path)
    if target.exists():  # left by a run that was killed
        _delete(target)
    partial.replace(target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_link(folder: Path, link: str, name: str) -> None:
    """Make ``folder/link`` a symbolic link to ``folder/name``, atomically."""
    fresh = folder / f".{link}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / link)


def _prune(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the last ``keep`` and those that links point to."""
    linked = {path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    complete = [
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]
    complete.sort(key=lambda path: (len(path.name), path.name))  # a longer number is a larger one
    for path in complete[: max(0, len(complete) - keep)]:
        if path.name not in linked:
            _delete(path)


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint. It is hidden first, so that an incomplete one is never visible."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.dropped")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.replace(hidden)
    shutil.rmtree(hidden)


def delete_incomplete(folder: Path) -> None:
    """Delete what was being written or deleted when a run was killed."""
    for path in folder.glob(".*"):
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)


def last_checkpoint(run_folder: Path) -> Path | None:
    """The checkpoint that a run would resume from, if there is one."""
    last = run_folder / "checkpoints" / "last"
    return last if last.exists() else None


def keep_best(run_folder: Path) -> None:
    """Of a finished run, keep only the best checkpoint, without its training state."""
    folder = run_folder / "checkpoints"
    best = (folder / "best").readlink().name
    set_link(folder, "last", best)
    _prune(folder, keep=0)
    shutil.rmtree(folder / best / STATE, ignore_errors=True)
    (folder / best / "progress.json").unlink(missing_ok=True)


class CheckpointWriter:
    """Copies the tensors of a checkpoint, and writes them in a background thread, one at a time.

    All ranks write their parts of the training state. Rank 0 writes the model. When every part is
    on the disk, it gives the checkpoint its name, switches the links and deletes old checkpoints.
    """

    def __init__(self, folder: Path, keep: int, timeout: int) -> None:
        self.folder, self.keep = folder, keep
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.running: Future[None] | None = None
        # A separate group, so that its messages do not mix with those of training.
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
        """Begin to write ``folder/name``, when the previous checkpoint is written.

        ``weights`` must be a copy of the model's; ``tensors`` are copied here.

        Raises:
            OSError: the previous checkpoint could not be written.
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
                _write_progress(progress, partial)
                _publish(partial, self.folder / name)
                for link in links:
                    set_link(self.folder, link, name)
                _prune(self.folder, self.keep)
            except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
                # torch and safetensors report a full disk by errors of their own types.
                if rank() == 0:
                    shutil.rmtree(partial, ignore_errors=True)
                if isinstance(error, RuntimeError) and is_connection_error(error):
                    raise
                raise OSError(
                    f"{self.folder / name} could not be written ({_reason(error)}): free some "
                    "space there. The last checkpoint before it is whole, and --resume goes on "
                    "from it"
                ) from error

        self.running = self.thread.submit(finish)

    @property
    def failed(self) -> bool:
        """Whether this rank knows by now that a checkpoint could not be written."""
        running = self.running
        return running is not None and running.done() and running.exception() is not None

    def failure(self) -> OSError:
        """The error of a checkpoint that some rank could not write."""
        try:
            self.wait()
        except OSError as error:
            return error
        return OSError(f"a rank could not write its part of a checkpoint in {self.folder}")

    def wait(self) -> None:
        """Wait until the last checkpoint is complete.

        Raises:
            OSError: it could not be written.
        """
        running, self.running = self.running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait as `wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self.thread.shutdown()


def _reason(error: BaseException) -> str:
    """The system's message, without the traceback that torch puts around it."""
    if isinstance(error, CheckpointException) and error.failures:
        first = next(iter(error.failures.values()))
        return str(first[0])
    return str(error)

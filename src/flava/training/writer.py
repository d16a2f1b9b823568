"""Writes checkpoints while training goes on."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from flava.distributed import rank, world_size
from flava.model.published.own import OwnModel, write_model
from flava.training.checkpoint import STATE, Progress, point, prune, publish, write_progress
from flava.training.processes import is_of_ranks


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
        model: OwnModel,
        weights: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        progress: Progress,
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
                if isinstance(error, RuntimeError) and is_of_ranks(error):
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

"""`flava train --processes`: several ranks on this machine, by torchrun's own launcher."""

import logging
import os
import signal
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from flava.training.stopping import Interrupted

ELASTIC = "torch.distributed.elastic.multiprocessing.api"
"""Logs how ranks ended."""


def is_rank() -> bool:
    """Whether this process was started as one of several ranks."""
    return "WORLD_SIZE" in os.environ


def launch(work: Callable[..., None], run: object, processes: int, max_restarts: int) -> None:
    """Let ``processes`` ranks do ``work(run)``, and wait for them.

    If one fails the others are stopped, and all are started again at most ``max_restarts`` times.

    Raises:
        ValueError: a rank failed; it has said why.
        Interrupted: Ctrl-C, or SIGTERM; all ranks have written their checkpoint.
    """
    logging.getLogger(ELASTIC).addFilter(without_traceback)
    share = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="flava",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
    )
    try:
        elastic_launch(config, work)(run)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ValueError(
            f"rank {rank} of {processes} ended with {ending(failure.exitcode)}, and the others "
            "were stopped: what it said is above. To go on from the last checkpoint, add --resume"
        ) from error
    except SignalException as stop:
        raise Interrupted("all ranks were stopped", stop.sigval) from stop


def without_traceback(record: logging.LogRecord) -> bool:
    """It is one of the launcher itself, and says nothing of what happened in the rank."""
    record.exc_info = None
    return True


def ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

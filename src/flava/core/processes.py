"""Runs work in several processes, which end when the process that started them ends."""

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar
from urllib.parse import urlsplit

PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl that names a signal for the parent's end (linux/prctl.h)."""


def end_with_parent() -> None:
    """Kill this process as soon as the one that started it is gone.

    It is killed and not asked to end: it may be waiting for an answer that never comes, and its
    open sockets and pipes keep other processes waiting.

    On Linux the kernel does it. A process that came out of multiprocessing's fork server is a child
    of that server, which outlives the process that asked for it; there, and on other systems, a
    thread waits for the parent that multiprocessing knows of. A process that was not started by
    multiprocessing has none: then nothing happens except on Linux.
    """
    parent = parent_process()
    if sys.platform == "linux" and (parent is None or os.getppid() == parent.pid):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent.pid:  # it ended before the call
            os.kill(os.getpid(), signal.SIGKILL)
    elif parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


T = TypeVar("T")
U = TypeVar("U")
Submit = Callable[..., "Future[Any]"]

AHEAD = 2
"""Tasks that are submitted for each process at once: one that runs and one that waits."""
ANSWER_SECONDS = 5
"""A cluster that has not answered by then is taken to be unreachable."""


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_pool(
    processes: int, cluster: str | None = None, modules: Sequence[str] = ()
) -> Iterator[tuple[Submit, int]]:
    """A function that submits work to other processes, and how many tasks run at once.

    Args:
        processes: The number of processes on this machine; with 1, this very process does the work.
        cluster: A Ray cluster's address, "auto" or "local": its processes are used instead.
        modules: Modules that the work imports late: the processes of this machine share them in
            memory.

    Raises:
        ValueError: Ray is not installed, or no cluster is there.
        OSError: a process was ended from outside.
    """
    if cluster is not None:
        with _on_ray(cluster) as pool:
            yield pool
    elif processes == 1:
        yield _run_here, 1
    else:
        # Not by fork: this process has threads, of Arrow and of torch.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["flava.prepare.blocks", *modules])
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_initialise_worker)
        try:
            yield pool.submit, processes
        except BrokenProcessPool as error:
            raise OSError(
                "a process of the build was ended from outside, most likely for want of memory: "
                "run the same command again with fewer --processes; it goes on from what is done"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _initialise_worker() -> None:
    """Ignore Ctrl-C, which reaches all processes and which the parent acts on; end with the parent.

    Otherwise the workers of a killed build would wait for ever, or write into the next build.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _run_here(function: Callable[..., U], *arguments: Any) -> "Future[U]":
    """The function's result, computed in this process at once."""
    future: Future[U] = Future()
    future.set_result(function(*arguments))
    return future


@contextmanager
def _on_ray(address: str) -> Iterator[tuple[Submit, int]]:
    """As ``process_pool``, on a Ray cluster: each call is a task of Ray."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("--cluster needs Ray: pip install 'flava[cluster]'") from error
    try:
        _require_answer(address)
        ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"--cluster {address}: no Ray cluster is there ({error}); start one with `ray start "
            "--head`, and join it with `ray start --address=HEAD:6379` on the other machines"
        ) from error

    def submit(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        return ray.remote(function).remote(*arguments).future()

    try:
        yield submit, int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Check that a server listens at an address: Ray itself would keep trying for minutes.

    Args:
        address: HOST:PORT or ray://HOST:PORT; "auto" and "local" name no server to check.

    Raises:
        OSError: no server listens there, or there is no such host.
    """
    url = urlsplit(address if "://" in address else f"ray://{address}")
    if url.port is not None:
        socket.create_connection((url.hostname or "", url.port), ANSWER_SECONDS).close()


def map_unordered(
    pool: tuple[Submit, int],
    function: Callable[..., U],
    items: Iterable[T],
    *shared: Any,
) -> Generator[U, None, None]:
    """``function(item, *shared)`` of each item, in the order in which the calls end.

    Items are taken from the iterable only as fast as the processes work them off.

    Raises:
        Exception: what the first call that failed raised; calls that wait are not made.
    """
    submit, processes = pool
    waiting: set[Future[U]] = set()
    for item in items:
        waiting.add(submit(function, item, *shared))
        if len(waiting) >= AHEAD * processes or processes == 1:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()

"""Work given to other processes, which end when the process that started them ends."""

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
from typing import Any, TypeVar
from urllib.parse import urlsplit

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl (linux/prctl.h)."""


def end_with_parent() -> None:
    """Let the kernel kill this process as soon as the one that started it is gone.

    Only Linux knows how; elsewhere nothing happens. It must be killed and not asked: it may be
    waiting for what never comes, and what it holds open (sockets, pipes) keeps others waiting.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it was gone before
        os.kill(os.getpid(), signal.SIGKILL)


T = TypeVar("T")
U = TypeVar("U")
Submit = Callable[..., "Future[Any]"]

AHEAD = 2
"""Pieces of work that wait for each process."""
ANSWER_SECONDS = 5
"""In which a cluster must answer."""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_pool(
    processes: int, cluster: str | None = None, modules: Sequence[str] = ()
) -> Iterator[tuple[Submit, int]]:
    """What submits a function with its arguments, and how many may run at once.

    Args:
        processes: Of this machine; with 1 it is this very process.
        cluster: A Ray cluster's address, "auto" or "local", in their stead.
        modules: That the work imports late; the processes of this machine share them in memory.

    Raises:
        ValueError: Ray is not installed, or no cluster is there.
        OSError: a process was ended from outside.
    """
    if cluster is not None:
        with on_ray(cluster) as found:
            yield found
    elif processes == 1:
        yield run_here, 1
    else:
        # Not by fork: this process has threads, of Arrow and of torch.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["flava.prepare.blocks", *modules])
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=initialise_worker)
        try:
            yield pool.submit, processes
        except BrokenProcessPool as error:
            raise OSError(
                "a process of the build was ended from outside, most likely for want of memory: "
                "run the same command again with fewer --processes; it goes on from what is done"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def initialise_worker() -> None:
    """Ctrl-C reaches all processes, and the first of them decides; when it is gone, they end.

    Else the processes of a build that was killed would wait for ever, or write into the next one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_when_parent_ends, daemon=True).start()


def end_when_parent_ends() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def run_here(function: Callable[..., U], *arguments: Any) -> "Future[U]":
    """The function's result, computed here and now."""
    future: Future[U] = Future()
    future.set_result(function(*arguments))
    return future


@contextmanager
def on_ray(address: str) -> Iterator[tuple[Submit, int]]:
    """As ``process_pool``, with a task of Ray for each piece."""
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("--cluster needs Ray: pip install 'flava[cluster]'") from error
    try:
        require_answer(address)
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


def require_answer(address: str) -> None:
    """Nothing, where somebody listens: Ray itself goes on trying for minutes where nobody does.

    Args:
        address: HOST:PORT or ray://HOST:PORT; "auto" and "local" name none.

    Raises:
        OSError: nobody does, or there is no such host.
    """
    found = urlsplit(address if "://" in address else f"ray://{address}")
    if found.port is not None:
        socket.create_connection((found.hostname or "", found.port), ANSWER_SECONDS).close()


def map_unordered(
    pool: tuple[Submit, int],
    function: Callable[..., U],
    given: Iterable[T],
    *shared: Any,
) -> Generator[U, None, None]:
    """The function of each, in the order that they come to an end; only so many are held at once.

    Raises:
        Exception: what the first of them to fail raised; those that wait are left undone.
    """
    submit, processes = pool
    waiting: set[Future[U]] = set()
    for each in given:
        waiting.add(submit(function, each, *shared))
        if len(waiting) >= AHEAD * processes or processes == 1:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    while waiting:
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()

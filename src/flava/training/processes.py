"""The ranks of a run: processes that torchrun, Slurm or `flava train --processes` started.

What they are told is torchrun's environment: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import sleep
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from flava.distributed import rank, world_size
from flava.parent import end_with_parent

LISTENING = 2.0
"""Seconds in which ranks that miss another tell one another so, before they end. Meanwhile the
launcher, which looks ten times a second, finds which rank was the first to end."""

GLOOS = ("gloo", "pair closure", "closed by peer", "reset by peer")
"""What its errors have in them: within a backward pass they come without its name."""


def own_device() -> torch.device:
    """The GPU of this rank's number on its machine, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def own_rank() -> int:
    """This process's number, also before the ranks have met and when they have parted."""
    return int(os.environ.get("RANK", "0"))


def machine_size() -> int:
    """How many ranks this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def restarts() -> int:
    """How often the launcher started the ranks again after some of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(timeout: int) -> Iterator[None]:
    """Meet the other ranks, if there are any; a rank waits ``timeout`` seconds for the others.

    Raises:
        ConnectionError: another rank ended, or did not answer in time.
    """
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if dist.is_torchelastic_launched():
        # Nobody would stop it, or start it again, once the launcher is gone.
        end_with_parent()
    store = None
    try:
        store = meet(device, timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        if not is_of_ranks(error):
            raise
        gone = named(silent(store)) if store else "another rank"
        raise ConnectionError(
            f"rank {own_rank()}: {gone} ended, or gave no answer within the timeout of "
            f"{timeout} s: what it said is above ({first_line(error)})"
        ) from error
    dist.destroy_process_group()


def meet(device: torch.device, timeout: timedelta) -> Store:
    """Join the group of all ranks; returns what they share beside it."""
    # With a backend for the CPU too: checkpoints and agreements travel there.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, number, ranks = next(rendezvous("env://", timeout=timeout))
    # The store outlives the ranks: started again, they would find the addresses of those before.
    store = PrefixStore(f"start {restarts()}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=timeout)
    return store


def silent(store: Store) -> list[int]:
    """The ranks that do not tell, as this one does, that they miss another."""
    try:
        store.set(f"misses another: {own_rank()}", "")
        sleep(LISTENING)
        ranks = range(int(os.environ["WORLD_SIZE"]))
        return [n for n in ranks if not store.check([f"misses another: {n}"])]
    except RuntimeError:  # the store has gone with the machine that held it
        return []


def named(ranks: Sequence[int]) -> str:
    if not ranks:
        return "another rank"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def is_of_ranks(error: RuntimeError) -> bool:
    """Whether it is a failure of the ranks' connection; gloo's have no type of their own."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(each in said for each in GLOOS)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def from_all(value: Any) -> list[Any]:
    """Every rank's value, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def raise_once(error: Exception) -> NoReturn:
    """Raise what all ranks know, on the first of them alone: one message, not one a rank.

    Raises:
        Exception: ``error``, on rank 0.
        SystemExit: on the others, once rank 0 has ended.
    """
    if rank() == 0:
        raise error
    with suppress(RuntimeError):
        dist.barrier()  # rank 0 never comes
    raise SystemExit(1) from error

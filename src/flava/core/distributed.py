"""The ranks of a run: starting them, and exchanging tensors and figures between them.

What they are told is torchrun's environment: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import Enum
from time import sleep
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional

from flava.core.processes import end_with_parent


class Gather(Enum):
    """Which features the gradient of a rank's loss reaches (columns 3 and 4 of Table C.1)."""

    GLOBAL = "global"
    """Every rank's, through the gather: the paper's choice."""
    LOCAL = "local"
    """The rank's own only, OpenCLIP's way when the paper was written."""


def rank() -> int:
    """This process's number, 0 where there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of every rank's ``values``, the same on all of them; no gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def gather_features(
    features: Float[Tensor, "local width"], sizes: Sequence[int]
) -> Float[Tensor, "total width"]:
    """The features of all ranks in order of rank; ``sizes`` tells how many rows each brings.

    The backward pass sums the ranks' gradients, so that the average over ranks (DDP's) is the
    gradient of the loss averaged over ranks.
    """
    if world_size() == 1:
        return features
    # A collective moves tensors of one shape: shorter ones are filled up, and cut again.
    filled = functional.pad(features, (0, 0, 0, max(sizes) - len(features))).contiguous()
    gathered = dist_functional.all_gather(filled)
    return torch.cat([shard[:size] for shard, size in zip(gathered, sizes, strict=True)])


def scale_gradient(values: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """The same values; their gradient is multiplied by ``factor``."""
    fixed = values.detach()
    return fixed + factor * (values - fixed)


def gather_numbers(values: Int[Tensor, " n"]) -> Int[Tensor, "ranks n"]:
    """The same few numbers of every rank, in order of rank."""
    if world_size() == 1:
        return values[None]
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values)
    return torch.stack(gathered)


LISTENING = 2.0
"""Seconds in which ranks that miss another tell one another so, before they end. Meanwhile the
launcher, which looks ten times a second, finds which rank was the first to end."""

GLOOS = ("gloo", "pair closure", "closed by peer", "reset by peer")
"""What its errors have in them: within a backward pass they come without its name."""


def local_device() -> torch.device:
    """The GPU of this rank's number on its machine, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def rank_from_environment() -> int:
    """This process's number, also before the ranks have met and when they have parted."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """How many ranks this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def restart_count() -> int:
    """How often the launcher started the ranks again after some of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(timeout: int) -> Iterator[None]:
    """Meet the other ranks, if there are any; a rank waits ``timeout`` seconds for the others.

    Raises:
        ConnectionError: another rank ended, or did not answer in time.
    """
    device = local_device()
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
        store = connect(device, timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        gone = name_ranks(silent_ranks(store)) if store else "another rank"
        raise ConnectionError(
            f"rank {rank_from_environment()}: {gone} ended, or gave no answer within the timeout "
            f"of {timeout} s: what it said is above ({first_line(error)})"
        ) from error
    dist.destroy_process_group()


def connect(device: torch.device, timeout: timedelta) -> Store:
    """Join the group of all ranks; returns what they share beside it."""
    # With a backend for the CPU too: checkpoints and agreements travel there.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, number, ranks = next(rendezvous("env://", timeout=timeout))
    # The store outlives the ranks: started again, they would find the addresses of those before.
    store = PrefixStore(f"start {restart_count()}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=timeout)
    return store


def silent_ranks(store: Store) -> list[int]:
    """The ranks that do not tell, as this one does, that they miss another."""
    try:
        store.set(f"misses another: {rank_from_environment()}", "")
        sleep(LISTENING)
        ranks = range(int(os.environ["WORLD_SIZE"]))
        return [n for n in ranks if not store.check([f"misses another: {n}"])]
    except RuntimeError:  # the store has gone with the machine that held it
        return []


def name_ranks(ranks: Sequence[int]) -> str:
    if not ranks:
        return "another rank"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def is_connection_error(error: RuntimeError) -> bool:
    """Whether it is a failure of the ranks' connection; gloo's have no type of their own."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(each in said for each in GLOOS)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def raise_on_rank_0(error: Exception) -> NoReturn:
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


def batches_of_rank(count: int, size: int) -> Iterator[tuple[range, bool]]:
    """The batches of ``size`` that fall to this rank, of ``count`` items.

    A batch holds the same items whatever the number of ranks is, so that it is computed alike. All
    ranks have as many, since a sharded model is put together by all of them in each forward pass:
    who would have fewer computes one again, which does not count.

    Yields:
        The places of a batch, and whether it counts.
    """
    starts = range(0, count, size)
    for first in range(0, len(starts), world_size()):
        number = first + rank()
        counts = number < len(starts)
        start = starts[number] if counts else 0
        yield range(start, min(start + size, count)), counts


def compute_on_all_ranks(
    count: int,
    size: int,
    compute: Callable[[range], Shaped[Tensor, "batch *width"]],
    device: torch.device,
) -> Shaped[Tensor, "count *width"]:
    """What ``compute`` makes of each of ``count`` items, in order, on the CPU of every rank.

    It is given the places of a batch of at most ``size`` items, each batch on one rank.
    """
    found: Tensor | None = None
    for places, counts in batches_of_rank(count, size):
        computed = compute(places)
        if found is None:
            found = computed.new_zeros((count, *computed.shape[1:]))
        if counts:
            found[places.start : places.stop] = computed
    assert found is not None  # there is at least one item
    if world_size() > 1:
        found = found.to(device)  # where the ranks can exchange it
        dist.all_reduce(found)  # of each item one rank has a value, and the others zero
    return found.cpu()

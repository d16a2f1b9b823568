"""The ranks of a run: their process group, and collectives that also work in a single process.

Ranks are configured by torchrun's environment variables: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
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
    """The features through which contrast is differentiated (columns 3 and 4 of Table C.1)."""

    GLOBAL = "global"
    """Through those of all ranks, by a differentiable gather: the paper's choice."""
    LOCAL = "local"
    """Only through the rank's own, as in OpenCLIP when the paper was written."""


def rank() -> int:
    """This process's rank; 0 if there is only one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_ranks(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of all ranks' ``values``, on every rank; it has no gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def gather_features(
    features: Float[Tensor, "local width"], sizes: Sequence[int]
) -> Float[Tensor, "total width"]:
    """The features of all ranks, in order of rank; rank r has ``sizes[r]`` rows.

    The backward pass sums the gradients of all ranks. DDP averages gradients over ranks, so the
    result is the gradient of the loss averaged over ranks.
    """
    if world_size() == 1:
        return features
    # Collectives need equal shapes, so shorter tensors are padded, and cut again afterwards.
    padded = functional.pad(features, (0, 0, 0, max(sizes) - len(features))).contiguous()
    gathered = dist_functional.all_gather(padded)
    return torch.cat([shard[:size] for shard, size in zip(gathered, sizes, strict=True)])


def scale_gradient(values: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
    """The same values, whose gradient is multiplied by ``factor``."""
    fixed = values.detach()
    return fixed + factor * (values - fixed)


def gather_ints(values: Int[Tensor, " n"]) -> Int[Tensor, "ranks n"]:
    """The integers ``values`` of every rank, in order of rank."""
    if world_size() == 1:
        return values[None]
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values)
    return torch.stack(gathered)


MISSING_RANK_WAIT = 2.0
"""Seconds that ranks wait before they end when another rank is missing. Meanwhile they tell each
other that they are alive, and the launcher, which polls ten times a second, finds which rank ended
first."""

GLOO_ERRORS = ("gloo", "pair closure", "closed by peer", "reset by peer")
"""Parts of the messages of gloo's connection errors. Those of backward passes do not name gloo."""


def local_device() -> torch.device:
    """The GPU whose index is this rank's local rank, or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def rank_from_environment() -> int:
    """This process's rank, also while there is no process group."""
    return int(os.environ.get("RANK", "0"))


def local_world_size() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def restart_count() -> int:
    """How often the launcher has restarted the ranks after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(timeout: int) -> Iterator[None]:
    """A context in which this process and the other ranks, if there are any, form a process group.

    ``timeout`` is in seconds: how long a rank waits for the others.

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
        # Without the launcher nobody would stop or restart this rank.
        end_with_parent()
    store = None
    try:
        store = connect(device, timedelta(seconds=timeout))
        yield
    except RuntimeError as error:
        if not is_connection_error(error):
            raise
        missing = _format_ranks(_unresponsive_ranks(store)) if store else "another rank"
        raise ConnectionError(
            f"rank {rank_from_environment()}: {missing} ended, or gave no answer within the "
            f"timeout of {timeout} s: its message is above ({_first_line(error)})"
        ) from error
    dist.destroy_process_group()


def connect(device: torch.device, timeout: timedelta) -> Store:
    """Initialize the process group; returns the store that ranks share beside it."""
    # The CPU needs a backend too, since checkpoints and Python objects are exchanged there.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, number, ranks = next(rendezvous("env://", timeout=timeout))
    # The store outlives the ranks. Without a prefix, restarted ranks would find old addresses.
    store = PrefixStore(f"start {restart_count()}", store)
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=timeout)
    return store


def _unresponsive_ranks(store: Store) -> list[int]:
    """The ranks that do not report in time, as this one does, that another rank is missing."""
    try:
        store.set(f"alive: {rank_from_environment()}", "")
        sleep(MISSING_RANK_WAIT)
        ranks = range(int(os.environ["WORLD_SIZE"]))
        return [n for n in ranks if not store.check([f"alive: {n}"])]
    except RuntimeError:  # the store was on a machine that is gone
        return []


def _format_ranks(ranks: Sequence[int]) -> str:
    """The ranks for a message, such as "ranks 1, 3"."""
    if not ranks:
        return "another rank"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def is_connection_error(error: RuntimeError) -> bool:
    """Whether an error is a failed connection between ranks; gloo has no error type for that."""
    message = str(error).lower()
    return isinstance(error, dist.DistError) or any(each in message for each in GLOO_ERRORS)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def gather_objects(value: Any) -> list[Any]:
    """The value of every rank, in order of rank. It must be picklable."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def raise_on_rank_0(error: Exception) -> NoReturn:
    """Raise an error that all ranks have on rank 0 only, so that it is reported once.

    Raises:
        Exception: ``error``, on rank 0.
        SystemExit: on the others, once rank 0 has ended.
    """
    if rank() == 0:
        raise error
    with suppress(RuntimeError):
        dist.barrier()  # rank 0 never comes
    raise SystemExit(1) from error


def batches_for_rank(count: int, size: int) -> Iterator[tuple[range, bool]]:
    """This rank's batches when ``count`` items are split into batches of ``size``.

    A batch holds the same items for any number of ranks, so that its results are the same. All
    ranks get equally many batches, since every rank takes part in each forward pass of a sharded
    model: a rank that would have one fewer gets the first batch again, to be ignored.

    Yields:
        The indices of a batch's items, and whether the batch counts.
    """
    starts = range(0, count, size)
    for first in range(0, len(starts), world_size()):
        number = first + rank()
        counts = number < len(starts)
        start = starts[number] if counts else 0
        yield range(start, min(start + size, count)), counts


def compute_across_ranks(
    count: int,
    size: int,
    compute: Callable[[range], Shaped[Tensor, "batch *width"]],
    device: torch.device,
) -> Shaped[Tensor, "count *width"]:
    """The results of ``compute`` for all of ``count`` items, in order, on the CPU of every rank.

    ``compute`` takes the indices of a batch of at most ``size`` items. Each batch is computed on
    one rank. ``count`` must be at least 1.
    """
    results: Tensor | None = None
    for indices, counts in batches_for_rank(count, size):
        computed = compute(indices)
        if results is None:
            results = computed.new_zeros((count, *computed.shape[1:]))
        if counts:
            results[indices.start : indices.stop] = computed
    assert results is not None
    if world_size() > 1:
        results = results.to(device)  # since GPUs exchange tensors on GPUs
        dist.all_reduce(results)  # one rank has the result of an item, the others have zeros
    return results.cpu()

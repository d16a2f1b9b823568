"""Evaluation while training: batches divided over the ranks, figures the same for any number."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from flava.distributed import rank, world_size


def own_batches(count: int, size: int) -> Iterator[tuple[range, bool]]:
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


def of_all_ranks(
    count: int,
    size: int,
    compute: Callable[[range], Shaped[Tensor, "batch *width"]],
    device: torch.device,
) -> Shaped[Tensor, "count *width"]:
    """What ``compute`` makes of each of ``count`` items, in order, on the CPU of every rank.

    It is given the places of a batch of at most ``size`` items, each batch on one rank.
    """
    found: Tensor | None = None
    for places, counts in own_batches(count, size):
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

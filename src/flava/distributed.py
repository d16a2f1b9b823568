"""Ranks, and what the losses need of the other ones: a gather with gradient, and a mean."""

from collections.abc import Sequence
from enum import Enum

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


class Gather(Enum):
    """Which features the gradient of a worker's loss reaches (columns 3 and 4 of Table C.1)."""

    GLOBAL = "global"
    """Every worker's, through the gather: the paper's choice."""
    LOCAL = "local"
    """The worker's own only, OpenCLIP's way when the paper was written."""


def rank() -> int:
    """This process's number, 0 where there is one process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_workers(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of every worker's ``values``, the same on all of them; no gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def gather(
    features: Float[Tensor, "local width"], sizes: Sequence[int]
) -> Float[Tensor, "total width"]:
    """The features of all workers in order of rank; ``sizes`` tells how many rows each brings.

    The backward pass sums the workers' gradients, so that the average over workers (DDP's) is the
    gradient of the loss averaged over workers.
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


def of_all_workers(values: Int[Tensor, " n"]) -> Int[Tensor, "workers n"]:
    """The same few numbers of every worker, in order of rank."""
    if world_size() == 1:
        return values[None]
    gathered = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(gathered, values)
    return torch.stack(gathered)

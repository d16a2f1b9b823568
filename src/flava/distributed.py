"""Ranks, and what the losses need of the other ones: a gather with gradient, and a mean."""

from enum import Enum

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from jaxtyping import Float
from torch import Tensor


class Gather(Enum):
    """Which workers the gradient of gathered features reaches (columns 3 and 4 of Table C.1)."""

    GLOBAL = "global"
    """Every worker, through the gather: the paper's choice."""
    LOCAL = "local"
    """The worker's own features only, OpenCLIP's way when the paper was written."""


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


def gather(features: Float[Tensor, "local width"], reach: Gather) -> Float[Tensor, "total width"]:
    """The features of all workers in order of rank; every worker must bring equally many.

    With `Gather.GLOBAL` the backward pass sums the workers' gradients, so that the average over
    workers (DDP's) is the gradient of the loss averaged over workers.
    """
    if world_size() == 1:
        return features
    if reach is Gather.GLOBAL:
        return torch.cat(dist_functional.all_gather(features))
    shards = [torch.empty_like(features) for _ in range(world_size())]
    dist.all_gather(shards, features.detach().contiguous())
    shards[rank()] = features
    return torch.cat(shards)

"""All that makes a model train in parallel, applied from outside and in one order.

First activation checkpointing of each block, then its compilation, then what joins the ranks: the
sharding must see blocks that are final, and hooks of it must stay outside what is compiled.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from flava.core.distributed import local_world_size, rank, world_size
from flava.core.precision import Precision
from flava.models.transformer import blocks_of
from flava.objectives import LossOutput
from flava.objectives.objective import Objective
from flava.training.run import Parallel, TrainerConfig

# Its successor is not in the oldest torch that we support.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")

Losses = dict[str, Tensor]
Accuracies = dict[str, Tensor | None]
Result = TypeVar("Result")


def by_name(batch: Callable[[], dict[str, LossOutput]]) -> tuple[Losses, Accuracies]:
    """A batch's losses, where what joins the ranks finds them, and its accuracies."""
    terms = batch()
    losses = {name: term.loss for name, term in terms.items()}
    return losses, {name: term.accuracy for name, term in terms.items()}


class TrainingModule(nn.Module):
    """The model as a module whose forward pass is any function that uses it.

    DDP and FSDP prepare their work when a module's forward begins, and an objective calls parts of
    the model only.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model

    def forward(self, step: Callable[[], Result]) -> Result:
        return step()


class ParallelModel:
    """A model on its device, shared by all ranks as the configuration says."""

    def __init__(self, run: TrainerConfig, objective: Objective, device: torch.device) -> None:
        self.model = objective.model.to(device)
        prepare_blocks(self.model, checkpointed=run.checkpoint_blocks, compiled=run.compile_blocks)
        self.learner: nn.Module = TrainingModule(objective)
        self.sharded = run.parallel is not Parallel.DDP and world_size() > 1
        if self.sharded:
            shard(self.learner, mesh(run.parallel, device), run.precision)
        elif world_size() > 1:
            # A batch of images leaves the text encoder unused, and one of texts the images'. All
            # ranks have batches of one kind, so such weights have no gradient on any of them.
            self.learner = DistributedDataParallel(
                self.learner,
                find_unused_parameters=True,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that have gradients; of sharded ones, this rank's parts."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @contextmanager
    def gradients(self, *, last: bool) -> Iterator[None]:
        """Where a batch's losses and their gradients are computed.

        Ranks exchange gradients with the ``last`` batch of an update alone.
        """
        match self.learner:
            case FSDPModule():
                self.learner.set_requires_gradient_sync(last)
                yield
                if last:
                    self.average_unsharded()
            case DistributedDataParallel() if not last:
                with self.learner.no_sync():
                    yield
            case _:
                yield

    def average_unsharded(self) -> None:
        """FSDP leaves alone the gradients of what it cannot shard."""
        for each in self.trained:
            if not isinstance(each, DTensor) and each.grad is not None:
                dist.all_reduce(each.grad)
                each.grad /= world_size()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Where parts of the model can be called outside of the learner, as a probe does."""
        if not isinstance(self.learner, FSDPModule):
            yield
            return
        self.learner.unshard()
        try:
            yield
        finally:
            self.learner.reshard()

    def weights(self) -> Mapping[str, Tensor]:
        """A copy of all weights on the CPU, on rank 0; nothing on the others.

        Sharded ones are put together one by one, for which every rank must call this.
        """
        found = {}
        for name, value in self.model.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if rank() == 0:
                found[name] = full.detach().to("cpu", copy=True).contiguous()
        return found


def prepare_blocks(model: nn.Module, *, checkpointed: bool, compiled: bool) -> None:
    """Checkpoint and compile every block; no parameter's name changes."""
    for block in blocks_of(model):
        if checkpointed:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.forward = torch.compile(block.forward, dynamic=True)


def mesh(parallel: Parallel, device: torch.device) -> DeviceMesh:
    """All ranks in a row, or (hybrid) a row for each machine."""
    if parallel is Parallel.FSDP:
        return init_device_mesh(device.type, (world_size(),))
    machines = world_size() // local_world_size()
    return init_device_mesh(
        device.type, (machines, local_world_size()), mesh_dim_names=("machines", "ranks")
    )


def shard(learner: nn.Module, over: DeviceMesh, precision: Precision) -> None:
    """Shard each block for itself, and all that is left as a whole."""
    if precision is Precision.BF16 and over.device_type == "cuda":
        # Halves what is gathered. Norms and the temperature outside the blocks stay 32 bits. On the
        # CPU a norm takes no weights of 16 bits beside states of 32.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    else:
        policy = MixedPrecisionPolicy()
    for block in blocks_of(learner):
        fully_shard(block, mesh=over, mp_policy=policy)
    # The temperature, and the codebook's convolutions where their memory is ordered by channels:
    # FSDP cannot shard these, and every rank has them whole.
    whole = {p for p in learner.parameters() if p.ndim == 0 or not p.is_contiguous()}
    fully_shard(learner, mesh=over, ignored_params=whole)

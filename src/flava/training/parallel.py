"""Activation checkpointing, compilation, DDP and FSDP, all applied to a model from outside.

The order matters: first activation checkpointing of each block, then its compilation, then DDP or
FSDP. FSDP must see the final blocks, and its hooks must stay outside of what is compiled.
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
from flava.training.trainer_config import Parallel, TrainerConfig

# Its successor is not in the oldest torch that we support.
warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")

Output = TypeVar("Output")


def losses_and_accuracies(
    compute: Callable[[], dict[str, LossOutput]],
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """A batch's losses and accuracies by name, in dicts: DDP and FSDP look for tensors there."""
    outputs = compute()
    losses = {name: output.loss for name, output in outputs.items()}
    return losses, {name: output.accuracy for name, output in outputs.items()}


class TrainingModule(nn.Module):
    """A module around the model, whose forward pass calls any function that uses the model.

    DDP and FSDP hook the forward pass of a module, but objectives call only parts of the model.
    This module's forward pass is the one that they hook.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model

    def forward(self, compute: Callable[[], Output]) -> Output:
        return compute()


class ParallelModel:
    """A model on its device, replicated or sharded over all ranks as the configuration says."""

    def __init__(self, run: TrainerConfig, objective: Objective, device: torch.device) -> None:
        self.model = objective.model.to(device)
        prepare_blocks(self.model, checkpointed=run.checkpoint_blocks, compiled=run.compile_blocks)
        self.training_module: nn.Module = TrainingModule(objective)
        is_sharded = run.parallel is not Parallel.DDP and world_size() > 1
        if is_sharded:
            _apply_fsdp(self.training_module, device_mesh(run.parallel, device), run.precision)
        elif world_size() > 1:
            # A batch of images leaves the text encoder unused, and a batch of texts the image
            # encoder. All ranks have batches of the same kind, so that unused weights have no
            # gradient on any rank.
            self.training_module = DistributedDataParallel(
                self.training_module,
                find_unused_parameters=True,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        self.trainable_parameters = [p for p in self.model.parameters() if p.requires_grad]
        """The parameters that get gradients; this rank's shards of those that are sharded."""

    @contextmanager
    def gradient_sync(self, *, is_last: bool) -> Iterator[None]:
        """A context for the forward and backward pass of one batch of a step.

        Ranks exchange gradients only with the last batch of a step.
        """
        match self.training_module:
            case FSDPModule():
                self.training_module.set_requires_gradient_sync(is_last)
                yield
                if is_last:
                    self.average_unsharded()
            case DistributedDataParallel() if not is_last:
                with self.training_module.no_sync():
                    yield
            case _:
                yield

    def average_unsharded(self) -> None:
        """Average the gradients of parameters that FSDP does not shard, which it leaves alone."""
        for each in self.trainable_parameters:
            if not isinstance(each, DTensor) and each.grad is not None:
                dist.all_reduce(each.grad)
                each.grad /= world_size()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """A context in which the model can be called directly, as validators do."""
        if not isinstance(self.training_module, FSDPModule):
            yield
            return
        self.training_module.unshard()
        try:
            yield
        finally:
            self.training_module.reshard()

    def full_weights(self) -> Mapping[str, Tensor]:
        """On rank 0 a copy of all weights on the CPU; nothing on the other ranks.

        Every rank must call this, since sharded weights are gathered, one after another.
        """
        weights = {}
        for name, value in self.model.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if rank() == 0:
                weights[name] = full.detach().to("cpu", copy=True).contiguous()
        return weights


def prepare_blocks(model: nn.Module, *, checkpointed: bool, compiled: bool) -> None:
    """Apply activation checkpointing and compilation to each block; parameters keep their names."""
    for block in blocks_of(model):
        if checkpointed:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compiled:
            block.forward = torch.compile(block.forward, dynamic=True)


def device_mesh(parallel: Parallel, device: torch.device) -> DeviceMesh:
    """A dimension of all ranks; with hybrid sharding, machines and ranks within a machine."""
    if parallel is Parallel.FSDP:
        return init_device_mesh(device.type, (world_size(),))
    machines = world_size() // local_world_size()
    return init_device_mesh(
        device.type, (machines, local_world_size()), mesh_dim_names=("machines", "ranks")
    )


def _apply_fsdp(training_module: nn.Module, mesh: DeviceMesh, precision: Precision) -> None:
    """Shard each block as a unit, and the remaining parameters as one more."""
    if precision is Precision.BF16 and mesh.device_type == "cuda":
        # Gathering weights in 16 bits halves the messages. Norms and the temperature outside of the
        # blocks stay in 32 bits. CPUs have no norm of 16-bit weights and 32-bit states.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    else:
        policy = MixedPrecisionPolicy()
    for block in blocks_of(training_module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # FSDP cannot shard scalars (the temperature) and tensors in channels-last layout (the
    # codebook's convolutions): every rank holds these whole.
    unsharded = {p for p in training_module.parameters() if p.ndim == 0 or not p.is_contiguous()}
    fully_shard(training_module, mesh=mesh, ignored_params=unsharded)

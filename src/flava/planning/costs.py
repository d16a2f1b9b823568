"""Counts what a step costs, by running the training code on torch's fake tensors.

A fake tensor has a shape and a dtype, but no values. Integers and booleans (lengths, masks, token
ids) stay real, since the shapes of packed tensors depend on their values.
"""

import weakref
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from flava.core.batch import AnyBatch, Batch, Inputs, map_tensors
from flava.methods import method_of
from flava.models.transformer import blocks_of
from flava.objectives.accumulation import accumulated_losses
from flava.objectives.objective import Objective
from flava.training.run import Run

aten = torch.ops.aten

FAKE_MODE = FakeTensorMode(allow_non_fake_inputs=True)
"""Makes fake tensors. It is only entered to make them: within it masks would become fake too, and
shapes that depend on their values would be unknown."""


def _fake_tensor(like: Tensor) -> FakeTensor:
    """A fake tensor of the same shape, strides and dtype, on the CPU."""
    with FAKE_MODE:
        made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="cpu")
    assert isinstance(made, FakeTensor)
    return made


def fake_floats(*shape: int) -> FakeTensor:
    """A fake tensor of 32-bit floats of that shape."""
    return _fake_tensor(torch.empty(shape, device="meta"))


def fake_batch(batch: AnyBatch) -> AnyBatch:
    """The same batch with fake images; its masks, token ids and lengths stay real."""
    return map_tensors(batch, lambda each: _fake_tensor(each) if each.is_floating_point() else each)


def _make_parameters_fake(model: nn.Module) -> None:
    """Replace every parameter and buffer of a model, such as those on the meta device."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = nn.Parameter(_fake_tensor(value), requires_grad=value.requires_grad)
                module._parameters[name] = fake
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = _fake_tensor(value)


def fake_objective(run: Run) -> Objective:
    """A run's objective around a model of fake parameters."""
    with torch.device("meta"):
        objective = method_of(run.model).build(run)
    _make_parameters_fake(objective.model)
    return objective


@contextmanager
def _as_on_gpu() -> Iterator[None]:
    """Let fake tensors say that they are on a GPU, so that models choose fused attention for them.

    To torch they are on the CPU, where autocast and collectives work on machines without a GPU. The
    CPU's fused attention keeps the same tensors for the backward pass as a GPU's.
    """
    FakeTensor.is_cuda = True  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del FakeTensor.is_cuda


FLOP_FORMULAS = ChainMap(
    flop_registry,
    {
        aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
            aten._scaled_dot_product_flash_attention
        ],
        aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
            aten._scaled_dot_product_flash_attention_backward
        ],
    },
)
"""Torch's formulas by operator, with those of the CPU's fused attention, which torch lacks. Torch
registers some of its own only when their module is imported, so this is no copy."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one optimizer step on one rank.

    Operations count two for each multiplication with its addition, as torch counts. Bytes are those
    beyond weights, their gradients and the batch.
    """

    contrast_operations: int
    """Operations of the additional encoding that contrast over several accumulated batches needs:
    all batches are encoded before the losses are computed."""
    forward_operations: int
    """Operations of the forward pass that computes the losses."""
    backward_operations: int
    """Operations of the backward pass, with what checkpointed blocks compute again in it."""
    activation_bytes: int
    """Bytes that the forward pass keeps for the backward pass."""
    cast_weight_bytes: int
    """Bytes of the 16-bit copies of weights that autocast keeps meanwhile."""
    temporary_bytes: int
    """Bytes beyond these two, at the moment when memory use is highest."""
    received_bytes: int
    """Bytes received from other ranks in both passes."""
    with_gradient: frozenset[str]
    """Names of the parameters that get a gradient."""
    block_calls_without_grad: Mapping[str, int]
    """How often each transformer block, by name, is called without building a graph."""
    block_calls_with_grad: Mapping[str, int]
    """How often each transformer block, by name, is called with a graph."""

    @property
    def operations(self) -> int:
        return self.contrast_operations + self.forward_operations + self.backward_operations


def cost_of(
    objective: Objective,
    batch: Batch,
    dtype: torch.dtype,
    ranks: int = 1,
    accumulate: int = 1,
    *,
    fused_attention: bool = True,
) -> Cost:
    """The cost of a step over ``accumulate`` batches like ``batch``, on one of ``ranks`` ranks.

    The model of ``objective`` and the images of ``batch`` are fake tensors (`fake_objective`,
    `fake_batch`). Without ``fused_attention``, attention is counted as it is computed on CPUs.
    """
    with_gradient: set[str] = set()
    calls_without_grad, calls_with_grad = Counter[str](), Counter[str]()
    with ExitStack() as stack:
        # Counting must not advance the random generators of the run that asks for it.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(_fake_process_group(ranks))
        stack.enter_context(_record_gradients(objective.model, with_gradient))
        stack.enter_context(
            _count_block_calls(objective.model, calls_without_grad, calls_with_grad)
        )
        if fused_attention:
            stack.enter_context(_as_on_gpu())
        counter = stack.enter_context(CostCounter(_existing_tensors(objective.model, batch)))
        encode_once, is_mixed = EncodeOnce(counter), dtype != torch.float32
        with torch.autocast("cpu", dtype, enabled=is_mixed):
            losses = accumulated_losses(
                objective, [batch] * accumulate, encode_once, torch.device("cpu")
            )[0]
        before_losses = counter.operations
        with torch.autocast("cpu", dtype, enabled=is_mixed):
            outputs = losses()
        total = torch.stack([output.loss for output in outputs.values()]).sum()
        after_forward = counter.operations
        kept_bytes, cast_bytes = counter.live_bytes, counter.live_cast_bytes
        del outputs
        total.backward()
    return Cost(
        contrast_operations=before_losses + (accumulate - 1) * encode_once.operations,
        forward_operations=accumulate * (after_forward - before_losses),
        backward_operations=accumulate * (counter.operations - after_forward),
        activation_bytes=kept_bytes - cast_bytes,
        cast_weight_bytes=cast_bytes,
        temporary_bytes=counter.peak_bytes - kept_bytes,
        received_bytes=counter.received_bytes,
        with_gradient=frozenset(with_gradient),
        block_calls_without_grad=calls_without_grad,
        block_calls_with_grad=calls_with_grad,
    )


class EncodeOnce:
    """Encodes the first of several equal batches, and copies its features for the others."""

    def __init__(self, counter: "CostCounter") -> None:
        self.counter = counter
        self.features: list[Tensor] = []
        self.operations = 0
        """Operations of encoding one batch."""

    def __call__(self, encode: Callable[[], list[Tensor]]) -> list[Tensor]:
        if not self.features:
            self.features = encode()
            self.operations = self.counter.operations
        return [each.clone() for each in self.features]


class CostCounter(TorchDispatchMode):
    """Counts operations, the bytes of all fake tensors that are alive, and bytes received.

    Torch has no public tool that counts the bytes. Operations are counted here too, by torch's
    formulas: `FlopCounterMode` itself hooks modules, and so keeps alive what checkpointed blocks
    compute again, which would be counted as memory.
    """

    def __init__(self, existing: Iterable[FakeTensor]) -> None:
        """Tensors that are ``existing`` already are not counted."""
        super().__init__()
        self.existing = {each.untyped_storage()._cdata for each in existing}
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.operations = self.received_bytes = 0
        self.live_bytes = self.live_cast_bytes = self.peak_bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "c10d" and (ranks := dist.get_world_size()) > 1:
            size = sum(each.nbytes for each in tree_leaves(args[0]) if isinstance(each, FakeTensor))
            self.received_bytes += size * (ranks - 1) // ranks
        result = func(*args, **(kwargs or {}))
        if formula := FLOP_FORMULAS.get(func._overloadpacket):
            self.operations += formula(*args, **(kwargs or {}), out_val=result)
        is_cast = func is aten._to_copy.default and isinstance(args[0], nn.Parameter)
        for each in tree_leaves(result):
            if isinstance(each, FakeTensor):
                self.add(each, is_cast=is_cast)
        return result

    def add(self, tensor: FakeTensor, *, is_cast: bool) -> None:
        """Count the storage of ``tensor`` until it is freed, unless it is counted already."""
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self.existing or address in self.alive:
            return

        def freed(_: object) -> None:
            del self.alive[address]
            self.live_bytes -= size
            self.live_cast_bytes -= size if is_cast else 0

        self.alive[address] = weakref.ref(storage, freed)
        self.live_bytes += size
        self.live_cast_bytes += size if is_cast else 0
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def tensors_in(batch: Batch | Inputs) -> Iterator[Tensor]:
    """Every tensor of a batch."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Batch | Inputs):
            yield from tensors_in(value)


def _existing_tensors(model: nn.Module, batch: Batch) -> Iterator[FakeTensor]:
    """The fake tensors before a step: weights, their gradients, and images."""
    parameters = list(model.parameters())
    gradients = [each.grad for each in parameters]
    for each in (*parameters, *gradients, *model.buffers(), *tensors_in(batch)):
        if isinstance(each, FakeTensor):
            yield each


@contextmanager
def _fake_process_group(ranks: int) -> Iterator[None]:
    """Act as rank 0 of ``ranks`` ranks that do not exist; each sends what this one has."""
    if ranks == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _count_block_calls(
    model: nn.Module, without_grad: Counter[str], with_grad: Counter[str]
) -> Iterator[None]:
    """Count how often each transformer block is called, without a graph and with one."""
    blocks = {id(block) for block in blocks_of(model)}
    hooks = [
        module.register_forward_pre_hook(
            lambda *_, name=name: (with_grad if torch.is_grad_enabled() else without_grad).update(
                [name]
            )
        )
        for name, module in model.named_modules()
        if id(module) in blocks
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _record_gradients(model: nn.Module, names: set[str]) -> Iterator[None]:
    """Add the names of parameters that get a gradient. Gradients are allocated beforehand."""
    hooks = []
    for name, each in model.named_parameters():
        if each.requires_grad:
            each.grad = torch.empty_like(each.data)
            hooks.append(
                each.register_post_accumulate_grad_hook(lambda _, name=name: names.add(name))
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

"""What a step costs, counted by running the training code on tensors without numbers.

Whole numbers and truths (lengths, masks, places) stay real, since shapes depend on them.
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
from torch._C._distributed_c10d import FakeWork
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry

from flava.core.batch import AnyBatch, Batch, Inputs, map_tensors
from flava.methods import method_of
from flava.models.transformer import blocks_of
from flava.objectives.accumulation import accumulated_losses
from flava.objectives.objective import Objective
from flava.training.run import Run

aten = torch.ops.aten


class Outline(Tensor):
    """A tensor whose numbers do not exist; its ``twin`` on the meta device computes its shape.

    To torch it is on the CPU, where autocast and collectives work without a GPU. The model is told
    that it is on one, so that it asks for fused attention: the CPU's keeps what a GPU's does.
    """

    twin: Tensor
    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    def __new__(cls, twin: Tensor) -> "Outline":  # noqa: PYI034 (beartype knows no Self here)
        # What torch itself makes its fake tensors by.
        made = Tensor._make_wrapper_subclass(
            cls,
            twin.shape,
            strides=twin.stride(),
            storage_offset=twin.storage_offset(),
            dtype=twin.dtype,
            device=torch.device("cpu"),
        )
        made.twin = twin
        return made

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"Outline({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def of(cls, *shape: int) -> "Outline":
        """32-bit numbers of that shape."""
        return cls(torch.empty(shape, device="meta"))

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "c10d":
            # Between ranks that do not exist: results are of the shape that they are to have.
            return args[0], FakeWork().boxed()
        if func is aten.index.Tensor:
            args = (args[0], places(args[1]))
        found = func(*tree_map(twin_of, args), **tree_map(twin_of, dict(kwargs or {})))
        if func._schema.name.endswith("_"):
            return args[0]
        return tree_map_only(Tensor, cls, found)


def twin_of(value: Any) -> Any:
    """Tensors on the meta device; anything else is as it was."""
    if isinstance(value, Outline):
        return value.twin
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, Tensor) and value.device.type != "meta":
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices without truths, whose number of places is not told by their shape."""
    found: list[Tensor | None] = []
    for each in indices:
        if each is not None and each.dtype == torch.bool:
            found += each.nonzero(as_tuple=True)
        else:
            found.append(each)
    return found


def outline_of(batch: AnyBatch) -> AnyBatch:
    """The same batch without the numbers of its images; its masks and lengths stay."""
    return map_tensors(
        batch, lambda each: Outline(twin_of(each)) if each.is_floating_point() else each
    )


def outlined(model: nn.Module) -> None:
    """Every parameter and buffer of a model on the meta device becomes an `Outline`."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                outline = nn.Parameter(Outline(value.data), requires_grad=value.requires_grad)
                module._parameters[name] = outline
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = Outline(value)


COUNTED = ChainMap(
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
"""What torch counts operations of, which grows as its parts are imported; it knows the fused
attention of GPUs alone."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of an update on one rank; bytes are those beyond weights, their gradients and the batch."""

    before: int
    """Operations where several batches count as one: their contrast, for which all are encoded
    before the losses are computed. Two for each multiplication with its addition, as torch
    counts."""
    forward: int
    """Operations of the losses."""
    backward: int
    kept: int
    """Bytes that are kept from the forward pass for the backward pass."""
    casts: int
    """Bytes of the weights' copies in 16 bits that autocast keeps for it."""
    temporary: int
    """Bytes beyond these, at the moment when all together are most."""
    received: int
    """Bytes from other ranks, in both passes."""
    reached: frozenset[str]
    """Names of the parameters that a gradient reaches."""
    encoded: Mapping[str, int]
    """How often each of a model's blocks, by name, computes a batch without a graph."""
    passed: Mapping[str, int]
    """And how often with one."""

    @property
    def operations(self) -> int:
        return self.before + self.forward + self.backward


def cost_of(
    objective: Objective, batch: Batch, dtype: torch.dtype, ranks: int = 1, accumulate: int = 1
) -> Cost:
    """That of ``accumulate`` batches like ``batch``, as one of ``ranks`` that have as much each.

    The model of ``objective`` and the pixels of ``batch`` are `Outline`s.
    """
    reached: set[str] = set()
    encoded, passed = Counter[str](), Counter[str]()
    with ExitStack() as stack:
        # A run's own numbers must not depend on what was counted beside it.
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(as_one_of(ranks))
        stack.enter_context(watching(objective.model, reached))
        stack.enter_context(counting(objective.model, encoded, passed))
        ledger = Ledger(present(objective.model, batch))
        stack.enter_context(ledger)
        alike, lower = Alike(ledger), dtype != torch.float32
        with torch.autocast("cpu", dtype, enabled=lower):
            losses = accumulated_losses(
                objective, [batch] * accumulate, alike, torch.device("cpu")
            )[0]
        before = ledger.operations
        with torch.autocast("cpu", dtype, enabled=lower):
            terms = losses()
        total = torch.stack([term.loss for term in terms.values()]).sum()
        forward, kept, casts = ledger.operations, ledger.held, ledger.casts
        del terms
        total.backward()
    return Cost(
        before=before + (accumulate - 1) * alike.operations,
        forward=accumulate * (forward - before),
        backward=accumulate * (ledger.operations - forward),
        kept=kept - casts,
        casts=casts,
        temporary=ledger.most - kept,
        received=ledger.received,
        reached=frozenset(reached),
        encoded=encoded,
        passed=passed,
    )


class Alike:
    """Encodes the first of several batches that are alike; the others have what it has."""

    def __init__(self, ledger: "Ledger") -> None:
        self.ledger = ledger
        self.features: list[Tensor] = []
        self.operations = 0
        """Of one."""

    def __call__(self, encode: Callable[[], list[Tensor]]) -> list[Tensor]:
        if not self.features:
            self.features = encode()
            self.operations = self.ledger.operations
        return [each.clone() for each in self.features]


class Ledger(TorchDispatchMode):
    """Adds up operations, the bytes of all `Outline`s that are alive, and those from other ranks.

    Not by `FlopCounterMode` itself, which keeps what a checkpointed block computes again.
    """

    def __init__(self, known: Iterable[Outline]) -> None:
        """What is ``known`` was there before, and is not counted."""
        super().__init__()
        self.known = {each.twin.untyped_storage()._cdata for each in known}
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.operations = self.held = self.most = self.casts = self.received = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.namespace == "c10d" and dist.get_world_size() > 1:
            every = sum(each.nbytes for each in tree_leaves(args[0]) if isinstance(each, Outline))
            self.received += every * (dist.get_world_size() - 1) // dist.get_world_size()
        found = func(*args, **(kwargs or {}))
        if count := COUNTED.get(func._overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=found)
        is_cast = func is aten._to_copy.default and isinstance(args[0], nn.Parameter)
        for each in tree_leaves(found):
            if isinstance(each, Outline):
                self.enter(each, is_cast=is_cast)
        return found

    def enter(self, tensor: Outline, *, is_cast: bool) -> None:
        """Count the storage of ``tensor`` until it is gone, unless it is counted already."""
        storage = tensor.twin.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place in self.known or place in self.alive:
            return

        def leave(_: object) -> None:
            del self.alive[place]
            self.held -= size
            self.casts -= size if is_cast else 0

        self.alive[place] = weakref.ref(storage, leave)
        self.held += size
        self.casts += size if is_cast else 0
        self.most = max(self.most, self.held)


def tensors_in(batch: Batch | Inputs) -> Iterator[Tensor]:
    """All of a batch."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Batch | Inputs):
            yield from tensors_in(value)


def present(model: nn.Module, batch: Batch) -> Iterator[Outline]:
    """What there is before the batch is computed: weights with their gradients, and pixels."""
    parameters = list(model.parameters())
    gradients = [each.grad for each in parameters]
    for each in (*parameters, *gradients, *model.buffers(), *tensors_in(batch)):
        if isinstance(each, Outline):
            yield each


@contextmanager
def as_one_of(ranks: int) -> Iterator[None]:
    """As rank 0 of so many, of which the others do not exist: each sends what this one has."""
    if ranks == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def counting(model: nn.Module, encoded: Counter[str], passed: Counter[str]) -> Iterator[None]:
    """Count how often each block is called, without a graph and with one."""
    blocks = {id(block) for block in blocks_of(model)}
    hooks = [
        module.register_forward_pre_hook(
            lambda *_, name=name: (passed if torch.is_grad_enabled() else encoded).update([name])
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
def watching(model: nn.Module, reached: set[str]) -> Iterator[None]:
    """Add the names of what a gradient reaches; gradients have their memory from the beginning."""
    hooks = []
    for name, each in model.named_parameters():
        if each.requires_grad:
            each.grad = torch.empty_like(each.data)
            hooks.append(
                each.register_post_accumulate_grad_hook(lambda _, name=name: reached.add(name))
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outlined_objective(run: Run) -> Objective:
    """A run's objective around a model without numbers."""
    with torch.device("meta"):
        objective = method_of(run.model).build(run)
    outlined(objective.model)
    return objective

"""Tensors of which the shape is known and the numbers are not: with them the code that trains runs
in no memory and next to no time, and can be counted.

Whole numbers and truths (lengths, masks, places) stay real, since shapes depend on them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import FakeWork
from torch.utils._pytree import tree_map, tree_map_only

from flava.batch import AnyBatch, mapped

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
    return mapped(batch, lambda each: Outline(twin_of(each)) if each.is_floating_point() else each)


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

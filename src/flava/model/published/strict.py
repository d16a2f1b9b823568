"""Weights into a model, with every misfit in one error."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Model = TypeVar("Model", bound=nn.Module)

Sources = Mapping[str, Sequence[str]]
"""Our parameter's name -> the entries whose rows, one after another, make it up."""


class Undrawn(TorchFunctionMode):
    """Leaves out the initial values of `torch.nn.init`.

    On the meta device they would cost nothing but the import of torch's compiler, 0.8 s.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **given)


def unfilled(make: Callable[[], Model]) -> Model:
    """A model on the CPU whose weights hold nothing yet: drawing a base model's takes seconds."""
    with torch.device("meta"), Undrawn():
        model = make()
    return model.to_empty(device="cpu")


def fill(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    sources: Sources,
    *,
    origin: str,
    ignored: Collection[str] = (),
) -> None:
    """Copy ``tensors`` into ``model``; what ``sources`` does not name keeps its value.

    ``ignored`` are entries that may be there and are not read, such as repeated biases.

    Raises:
        ValueError: entries are missing, unexpected or misshapen; all of them in one error.
    """
    wanted = model.state_dict()
    asked = {entry for entries in sources.values() for entry in entries}
    misfits = [f"missing: {entry}" for entry in sorted(asked - tensors.keys())]
    misfits += [f"unexpected: {entry}" for entry in sorted(tensors.keys() - asked - set(ignored))]
    whole = {n: e for n, e in sources.items() if all(entry in tensors for entry in e)}
    misfits += [
        f"{entry} is of {tensors[entry].dtype}: only floating point can be read"
        for entry in sorted(asked & tensors.keys())
        if not tensors[entry].is_floating_point()
    ]
    misfits += [
        f"{entry} is {list(tensors[entry].shape)} in the file, {list(shape)} in the model"
        for name, entries in whole.items()
        for entry in entries
        if tensors[entry].shape != (shape := part_shape(wanted[name], len(entries)))
    ]
    if misfits:
        raise ValueError(f"the weights of {origin} do not fit:\n  " + "\n  ".join(misfits))
    with torch.no_grad():
        for name, entries in whole.items():
            parts = [tensors[entry] for entry in entries]
            wanted[name].copy_(torch.cat(parts) if len(parts) > 1 else parts[0])


def part_shape(tensor: Tensor, parts: int) -> torch.Size:
    """The shape of each of ``parts`` equal pieces of the rows; the whole's own for one part."""
    if parts == 1:
        return tensor.shape
    return torch.Size([tensor.shape[0] // parts, *tensor.shape[1:]])

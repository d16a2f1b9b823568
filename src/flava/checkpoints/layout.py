"""What a layout of checkpoints is: tensors found in a file, names translated, models filled.

Ours differ in holding query, key and value as one matrix. Heads' biases have two names in the
published layouts, the head's own and its decoder's, for one tensor.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of a checkpoint under the names of its file, and what stands beside them."""

    origin: str
    """What the user named: for errors."""
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    """The ``config.json`` beside the weights, if there is one."""
    folder: Path | None = None
    """Where to look for the files of a tokeniser or an image processor."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One published way to name a model's tensors."""

    name: str
    """As a user would call it, "Hugging Face FlavaForPreTraining"."""
    matches: Callable[[Stored], bool]
    """Whether the names (and the config) are of this layout; cheap, and never an error."""
    build: Callable[[Stored], nn.Module]
    """The model with these weights, in evaluation mode, its geometry read from config or tensors.

    Raises:
        ValueError: entries are missing, unexpected or misshapen (all of them in one error), or the
            model has what ours cannot compute (with the reason).
    """


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


Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(pattern of our name, replacement), applied in this order."""


def rename(name: str, table: Table) -> str:
    """The published name of one of our parameters; of ``qkv`` a name that holds "qkv" still."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def sources(
    ours: Iterable[str], table: Table, parts: Callable[[str], list[str]] = lambda name: [name]
) -> Sources:
    """For each of our names the published entries that make it up; ``parts`` of a renamed one."""
    return {name: parts(rename(name, table)) for name in ours}


def split(*query_key_value: str) -> Callable[[str], list[str]]:
    """The three entries of a renamed ``qkv``, where a layout holds it in parts of these names."""
    return lambda name: (
        [name.replace("qkv", part) for part in query_key_value] if ".qkv." in name else [name]
    )


QUERY_KEY_VALUE = split("query", "key", "value")
"""The parts as Hugging Face's and TorchMultimodal's models name them."""


def export(
    state: Mapping[str, Tensor],
    table: Table,
    parts: Callable[[str], list[str]] = QUERY_KEY_VALUE,
) -> dict[str, Tensor]:
    """Our tensors under the published names; ``parts`` of one matrix are views of it."""
    published: dict[str, Tensor] = {}
    for name, entries in sources(state, table, parts).items():
        pieces = state[name].chunk(len(entries)) if len(entries) > 1 else (state[name],)
        published |= dict(zip(entries, pieces, strict=True))
    return published


def without_second_names(
    tensors: Mapping[str, Tensor], second: Mapping[str, str], origin: str
) -> dict[str, Tensor]:
    """A tensor that the layout names twice once only, whichever of its names the file has.

    Args:
        second: second name -> first name.

    Raises:
        ValueError: both names are there, with different values.
    """
    once = {name: tensor for name, tensor in tensors.items() if name not in second}
    there = {other: first for other, first in second.items() if other in tensors}
    for other, first in there.items():
        once.setdefault(first, tensors[other])
    if different := [
        f"{other} differs from {first}, which is the same tensor"
        for other, first in there.items()
        if not torch.equal(once[first], tensors[other])
    ]:
        raise ValueError(f"the weights of {origin} do not fit:\n  " + "\n  ".join(different))
    return once


TRANSFORMERS_BLOCKS: Table = (
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm_(before|after)\.", r".layernorm_\1."),
    (r"\.attention\.qkv\.", ".attention.attention.qkv."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.mlp_in\.", ".intermediate.dense."),
    (r"\.mlp_out\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
)
"""The blocks of transformers' ViT, BEiT and FLAVA, and the norm after them."""

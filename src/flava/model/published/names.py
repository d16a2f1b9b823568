"""Our names to and from those of a published layout, by one table for both directions.

Ours differ in holding query, key and value as one matrix. Heads' biases have two names in the
published layouts, the head's own and its decoder's, for one tensor.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

Table = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(pattern of our name, replacement), applied in this order."""

QUERY_KEY_VALUE = ("query", "key", "value")


def rename(name: str, table: Table) -> str:
    """The published name of one of our parameters; of ``qkv`` a name that holds "qkv" still."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def sources(names: Iterable[str], table: Table) -> dict[str, list[str]]:
    """For each of our names the published entries that make it up, as `strict.fill` takes them."""
    return {
        name: [theirs.replace("qkv", part) for part in QUERY_KEY_VALUE]
        if ".qkv." in (theirs := rename(name, table))
        else [theirs]
        for name in names
    }


def export(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our tensors under the published names; parts of one matrix are views of it."""
    published: dict[str, Tensor] = {}
    for name, entries in sources(state, table).items():
        parts = state[name].chunk(len(entries)) if len(entries) > 1 else (state[name],)
        published |= dict(zip(entries, parts, strict=True))
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

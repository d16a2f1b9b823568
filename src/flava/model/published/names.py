"""Our names to and from those of a published layout, by one table for both directions.

Ours differ in holding query, key and value as one matrix. Heads' biases have two names in the
published layouts, the head's own and its decoder's, for one tensor.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from flava.model.published.strict import Sources

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

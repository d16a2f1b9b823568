"""Our parameters' names to those of a layout, by a table; and where to find qkv in it."""

import re
from collections.abc import Callable, Iterable, Sequence

from flava.model.published.strict import Sources

Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(pattern of our name, replacement), applied in this order."""


def rename(name: str, names: Names) -> str:
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return name


def sources(
    ours: Iterable[str], names: Names, parts: Callable[[str], list[str]] = lambda name: [name]
) -> Sources:
    """Where each of our parameters comes from; ``parts`` are the entries of a renamed one."""
    return {name: parts(rename(name, names)) for name in ours}


def split(*query_key_value: str) -> Callable[[str], list[str]]:
    """The three entries of a renamed ``qkv``, where a layout holds it in parts of these names."""
    return lambda name: (
        [name.replace("qkv", part) for part in query_key_value] if ".qkv." in name else [name]
    )


TRANSFORMERS_BLOCKS: Names = (
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm_(before|after)\.", r".layernorm_\1."),
    (r"\.attention\.qkv\.", ".attention.attention.qkv."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.mlp_in\.", ".intermediate.dense."),
    (r"\.mlp_out\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
)
"""The blocks of transformers' ViT, BEiT and FLAVA, and the norm after them."""

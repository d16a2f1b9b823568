"""Geometry read from the shapes of a checkpoint's tensors, and held against its config."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flava.model.published.stored import Stored
from flava.model.transformer import Activation, TransformerConfig

Config = Mapping[str, Any]

HEAD_WIDTH = 64
"""Of every attention head in BERT, CLIP's text encoders and ViTs up to ViT-L."""

WIDE_VIT_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Heads of the ViTs that have wider ones, by width: So-400m, H, g and G in timm and open_clip."""


def shapes(stored: Stored, axes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The shapes of the entries that a geometry is read from, given how many axes each has.

    Raises:
        ValueError: entries are missing or have other axes; all of them in one error.
    """
    wrong = [f"missing: {name}" for name in axes if name not in stored.tensors]
    wrong += [
        f"{name} is {list(tensor.shape)} in the file, where {count} axes are expected"
        for name, count in axes.items()
        if (tensor := stored.tensors.get(name)) is not None and tensor.ndim != count
    ]
    refuse_if(wrong, f"the geometry of {stored.origin} cannot be read")
    return [tuple(stored.tensors[name].shape) for name in axes]


def count_blocks(names: Iterable[str], pattern: str) -> int:
    """How many different numbers stand where the pattern's first group is, at a name's start."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def image_geometry(stored: Stored, patches: str, positions: str, axes: int) -> dict[str, Any]:
    """Width, patch and image size of an image encoder, from two entries.

    Raises:
        ValueError: as `shapes`; patches are not square, or the positions (of so many ``axes``) are
            not those of [CLS] and a square of patches.
    """
    kernel, table = shapes(stored, {patches: 4, positions: axes})
    rows = table[-2]
    side = math.isqrt(max(rows - 1, 0))
    wrong = []
    if kernel[2] != kernel[3]:
        wrong.append(f"{patches} is {list(kernel)}: its patches are not square")
    if side < 1 or side**2 != rows - 1:
        wrong.append(f"{positions} has {rows} rows, not those of [CLS] and a square of patches")
    refuse_if(wrong, f"our image encoders cannot hold {stored.origin}")
    return {"width": kernel[0], "patch_size": kernel[3], "image_size": kernel[3] * side}


def heads(stored: Stored, width: int, given: object = None) -> int:
    """Attention heads: as given, else heads of 64.

    Raises:
        ValueError: neither tells.
    """
    if isinstance(given, int) and given > 0:
        return given
    if given is not None:
        raise ValueError(f"the config of {stored.origin} gives {given!r} attention heads")
    if width % HEAD_WIDTH:
        raise ValueError(
            f"{stored.origin} does not tell how many attention heads it has, and its width {width} "
            f"is no multiple of {HEAD_WIDTH}, the usual size of one: put them in a config beside it"
        )
    return width // HEAD_WIDTH


FIELDS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "intermediate_size": "mlp_width",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "vocab_size": "vocabulary_size",
    "max_position_embeddings": "max_length",
    "projection_dim": "projection_width",
}
"""Fields of transformers' configs, and ours of the same meaning."""


def hugging_face(
    stored: Stored, config: Config, where: str, geometry: Mapping[str, int]
) -> dict[str, Any]:
    """What only a config of transformers' tells: activation and epsilon, where it has them.

    ``geometry`` is what the tensors tell; ``where`` stands before the config's fields in errors.

    Raises:
        ValueError: the config disagrees with the tensors or has what ours cannot compute; all of
            it in one error.
    """
    wrong = disagreements(config, where, FIELDS, geometry)
    found: dict[str, Any] = {}
    if (activation := config.get("hidden_act")) is not None:
        found["activation"] = next((a for a in Activation if a.value == activation), None)
        if found["activation"] is None:
            known = ", ".join(a.value for a in Activation)
            wrong.append(f"{where}hidden_act is {activation!r}: ours compute {known}")
    if (epsilon := config.get("layer_norm_eps")) is not None:
        found["norm_eps"] = epsilon
        if not isinstance(epsilon, int | float):
            wrong.append(f"{where}layer_norm_eps is {epsilon!r}: it should be a number")
    refuse_if(wrong, f"the config of {stored.origin} does not fit")
    return found


def section(stored: Stored, config: Config | None, name: str) -> Config:
    """A part of a config; empty where it is not there.

    Raises:
        ValueError: it is no object.
    """
    found = (config or {}).get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name} in the config of {stored.origin} is {found!r}, not an object")
    return found


def disagreements(
    config: Config, where: str, fields: Mapping[str, str], geometry: Mapping[str, int]
) -> list[str]:
    """Fields of a config that the tensors contradict, one line each."""
    return [
        f"{where}{key} is {config[key]!r}, but the tensors have {geometry[name]}"
        for key, name in fields.items()
        if key in config and name in geometry
        if config[key] not in (geometry[name], [geometry[name]] * 2)
    ]


def check(stored: Stored, config: TransformerConfig, part: str) -> None:
    """Raises ValueError: this geometry does not hold."""
    refuse_if(config.mistakes(part), f"the geometry of {stored.origin} does not hold")


def refuse_if(reasons: list[str], what: str) -> None:
    """Raises ValueError: there are reasons to."""
    if reasons:
        raise refusal(what, reasons)


def refusal(what: str, reasons: list[str]) -> ValueError:
    """An error with a reason in each line."""
    return ValueError(f"{what}:\n  " + "\n  ".join(reasons))

"""Reads the sizes of a single encoder from tensor shapes, and checks them against its config."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from flava.checkpoints.layout import Checkpoint, raise_if_any
from flava.core.constraints import config_errors
from flava.models.transformer import Activation, TransformerConfig

Config = Mapping[str, Any]
"""A published configuration, as its JSON file has it."""

HEAD_WIDTH = 64
"""Width of every attention head in BERT, FLAVA, CLIP's text encoders and ViTs up to ViT-L."""

WIDE_VIT_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Width -> number of heads of the ViTs with wider heads: So-400m, H, g and G in timm and
open_clip."""


def tensor_shapes(checkpoint: Checkpoint, axes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The shapes of some tensors, in the order given.

    Args:
        axes: published key -> number of dimensions that the tensor must have.

    Raises:
        ValueError: tensors are missing or have other dimensions; all of them in one error.
    """
    problems = [f"missing: {key}" for key in axes if key not in checkpoint.state_dict]
    problems += [
        f"{key} is {list(tensor.shape)} in the file, where {count} axes are expected"
        for key, count in axes.items()
        if (tensor := checkpoint.state_dict.get(key)) is not None and tensor.ndim != count
    ]
    raise_if_any(problems, f"the geometry of {checkpoint.origin} cannot be read")
    return [tuple(checkpoint.state_dict[key].shape) for key in axes]


def count_blocks(keys: Iterable[str], pattern: str) -> int:
    """The number of blocks: how many different numbers the first group of the pattern matches."""
    return len({match[1] for key in keys if (match := re.match(pattern, key))})


def read_image_geometry(
    checkpoint: Checkpoint, patches: str, positions: str, axes: int
) -> dict[str, Any]:
    """``width``, ``patch_size`` and ``image_size`` of an image encoder.

    Args:
        patches: key of the patch embedding's convolution.
        positions: key of the position embeddings.
        axes: number of dimensions of the position embeddings.

    Raises:
        ValueError: as `tensor_shapes`; or patches are not square, or the positions are not those
            of [CLS] and a square of patches.
    """
    kernel, table = tensor_shapes(checkpoint, {patches: 4, positions: axes})
    rows = table[-2]
    side = math.isqrt(max(rows - 1, 0))
    problems = []
    if kernel[2] != kernel[3]:
        problems.append(f"{patches} is {list(kernel)}: its patches are not square")
    if side < 1 or side**2 != rows - 1:
        problems.append(f"{positions} has {rows} rows, not those of [CLS] and a square of patches")
    raise_if_any(problems, f"our image encoders cannot hold {checkpoint.origin}")
    return {"width": kernel[0], "patch_size": kernel[3], "image_size": kernel[3] * side}


def head_count(checkpoint: Checkpoint, width: int, given: object = None) -> int:
    """The number of attention heads: as ``given`` by a config, or else ``width`` / 64.

    Raises:
        ValueError: the given number is none, or nothing tells the number.
    """
    if isinstance(given, int) and given > 0:
        return given
    if given is not None:
        raise ValueError(f"the config of {checkpoint.origin} gives {given!r} attention heads")
    if width % HEAD_WIDTH:
        raise ValueError(
            f"{checkpoint.origin} does not tell how many attention heads it has, and its width "
            f"{width} is no multiple of {HEAD_WIDTH}, the usual size of one: put them in a config "
            "beside it"
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
"""Fields of transformers' configs -> our fields of the same meaning."""


def activation_and_eps(
    checkpoint: Checkpoint, config: Config, prefix: str, geometry: Mapping[str, int]
) -> dict[str, Any]:
    """``activation`` and ``norm_eps`` from a config of transformers, as far as it has them.

    Tensors do not tell these two. The rest of the config is compared with the tensors.

    Args:
        prefix: stands before the config's fields in error messages.
        geometry: what was read from the tensors.

    Raises:
        ValueError: the config contradicts the tensors, or has a value that ours cannot compute;
            all of it in one error.
    """
    problems = config_mismatches(config, prefix, FIELDS, geometry)
    settings: dict[str, Any] = {}
    if (activation := config.get("hidden_act")) is not None:
        settings["activation"] = next((a for a in Activation if a.value == activation), None)
        if settings["activation"] is None:
            known = ", ".join(a.value for a in Activation)
            problems.append(f"{prefix}hidden_act is {activation!r}: ours compute {known}")
    if (epsilon := config.get("layer_norm_eps")) is not None:
        settings["norm_eps"] = epsilon
        if not isinstance(epsilon, int | float):
            problems.append(f"{prefix}layer_norm_eps is {epsilon!r}: it should be a number")
    raise_if_any(problems, f"the config of {checkpoint.origin} does not fit")
    return settings


def config_section(checkpoint: Checkpoint, config: Config | None, name: str) -> Config:
    """A nested config; empty if it is not there.

    Raises:
        ValueError: it is no JSON object.
    """
    section = (config or {}).get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(
            f"{name} in the config of {checkpoint.origin} is {section!r}, not an object"
        )
    return section


def config_mismatches(
    config: Config, prefix: str, fields: Mapping[str, str], geometry: Mapping[str, int]
) -> list[str]:
    """The fields of a config that contradict the tensors, one line each."""
    return [
        f"{prefix}{key} is {config[key]!r}, but the tensors have {geometry[name]}"
        for key, name in fields.items()
        if key in config and name in geometry
        if config[key] not in (geometry[name], [geometry[name]] * 2)
    ]


def check_config(checkpoint: Checkpoint, config: TransformerConfig, part: str) -> None:
    """Raises ValueError if no encoder of ours can have this geometry."""
    errors = config_errors(config, f"{part}.")
    raise_if_any(errors, f"the geometry of {checkpoint.origin} does not hold")

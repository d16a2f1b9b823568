"""A model's sizes, read from the shapes of its tensors and compared with its config."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import count, takewhile
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from flava.checkpoints.layout import Stored, Table, rename
from flava.core.constraints import config_errors
from flava.models.codebook import CodebookConfig
from flava.models.encoders import ImageConfig, MultimodalConfig, TextConfig
from flava.models.flava import FlavaConfig
from flava.models.transformer import Activation, TransformerConfig

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
    refuse_if(config_errors(config, f"{part}."), f"the geometry of {stored.origin} does not hold")


def refuse_if(reasons: list[str], what: str) -> None:
    """Raises ValueError: there are reasons to."""
    if reasons:
        raise refusal(what, reasons)


def refusal(what: str, reasons: list[str]) -> ValueError:
    """An error with a reason in each line."""
    return ValueError(f"{what}:\n  " + "\n  ".join(reasons))


class Shapes:
    """Shapes of a published checkpoint's entries by our names."""

    def __init__(self, tensors: Mapping[str, Tensor], table: Table, origin: str) -> None:
        self.tensors, self.table, self.origin = tensors, table, origin
        self.mistakes: list[str] = []

    def has(self, name: str) -> bool:
        return rename(name, self.table) in self.tensors

    def size(self, name: str, dimension: int) -> int:
        """One side of an entry; 1 with a mistake noted if it is not there."""
        theirs = rename(name, self.table)
        shape = self.tensors[theirs].shape if theirs in self.tensors else torch.Size()
        if not -len(shape) <= dimension < len(shape):
            found = f"is {list(shape)}" if theirs in self.tensors else "is missing"
            self.mistakes.append(f"{theirs} {found}, which should tell the geometry")
            return 1
        return shape[dimension]

    def depth(self, pattern: str) -> int:
        """How many names exist, counting from 0 in place of ``{}``."""
        return len(list(takewhile(lambda i: self.has(pattern.format(i)), count())))


def infer(
    tensors: Mapping[str, Tensor], table: Table, origin: str, heads: Mapping[str, int] | None = None
) -> FlavaConfig:
    """The geometry of a FLAVA.

    Args:
        heads: attention heads of image, text and multimodal encoder, where they are known. Else
            they are 64 wide, as in every published model.

    Raises:
        ValueError: entries that tell it are missing, or the number of heads cannot be known.
    """
    shapes = Shapes(tensors, table, origin)
    found: dict[str, dict[str, Any]] = {
        kind: {
            "width": (width := shapes.size(f"{kind}_encoder.norm.weight", 0)),
            "depth": shapes.depth(f"{kind}_encoder.blocks.{{}}.norm_before.weight"),
            "heads": heads[kind] if heads else count_heads(kind, width, shapes),
            "mlp_width": shapes.size(f"{kind}_encoder.blocks.0.mlp_in.weight", 0),
        }
        for kind in ("image", "text", "multimodal")
    }
    patch, grid = shapes.size("image_encoder.patches.weight", -1), find_grid(shapes)
    vocabulary_size = shapes.size("text_encoder.words.weight", 0)
    max_length = shapes.size("text_encoder.positions.weight", 0)
    projection_width = shapes.size("image_projection.weight", 0)
    codebook = find_codebook(shapes)
    if shapes.mistakes:
        raise ValueError(f"the weights of {origin} do not fit:\n  " + "\n  ".join(shapes.mistakes))
    return FlavaConfig(
        image=ImageConfig(image_size=patch * grid, patch_size=patch, **found["image"]),
        text=TextConfig(vocabulary_size=vocabulary_size, max_length=max_length, **found["text"]),
        multimodal=MultimodalConfig(**found["multimodal"]),
        projection_width=projection_width,
        codebook=codebook,
    )


def count_heads(kind: str, width: int, shapes: Shapes) -> int:
    if width > 1 and width % HEAD_WIDTH:
        shapes.mistakes.append(
            f"the number of attention heads is not in the tensors, and the {kind} encoder's width "
            f"{width} is no multiple of {HEAD_WIDTH}, the published width of a head: put the "
            "config.json beside the weights"
        )
    return max(1, width // HEAD_WIDTH)


def find_grid(shapes: Shapes) -> int:
    patches = shapes.size("image_encoder.positions", 1) - 1
    if patches > 0 and isqrt(patches) ** 2 != patches:
        shapes.mistakes.append(f"the {patches} image positions are no square")
    return isqrt(max(0, patches))


def find_codebook(shapes: Shapes) -> CodebookConfig:
    """The published codebook's geometry, as far as the tensors do not tell another."""
    known: dict[str, int] = {}
    if shapes.has("mim_head.decoder.weight"):
        known["codes"] = shapes.size("mim_head.decoder.weight", 0)
    if shapes.has("codebook.encoder.input.weight"):
        known["width"] = shapes.size("codebook.encoder.input.weight", 0)
        known["codes"] = shapes.size("codebook.encoder.output.weight", 0)
        known["blocks"] = shapes.depth("codebook.encoder.groups.0.{}.convolutions.0.weight")
    return CodebookConfig(**known)

"""A model's geometry from the shapes of its tensors, where no config stands beside them."""

from collections.abc import Mapping
from itertools import count, takewhile
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from flava.model.codebook import CodebookConfig
from flava.model.flava import FlavaConfig
from flava.model.image import ImageConfig
from flava.model.multimodal import MultimodalConfig
from flava.model.published.names import Table, rename
from flava.model.text import TextConfig

HEAD_WIDTH = 64
"""Width of an attention head in every published model (ViT-B, BERT); tensors do not tell it."""


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
    found: dict[str, Any] = {
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

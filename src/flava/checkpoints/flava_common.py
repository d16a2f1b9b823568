"""Shared by both layouts of a whole FLAVA: reads its geometry, builds it and exports it."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count, takewhile
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flava.checkpoints.geometry import HEAD_WIDTH
from flava.checkpoints.layout import (
    QUERY_KEY_VALUE,
    Checkpoint,
    KeyMapping,
    empty_model,
    export_state_dict,
    load_weights,
    published_keys,
    raise_if_any,
    rename,
)
from flava.checkpoints.reading import DECODER_FILE, read_tensors
from flava.models.codebook import CodebookConfig, initialise_convolution
from flava.models.encoders import ImageConfig, MultimodalConfig, TextConfig
from flava.models.flava import INITIAL_LOGIT_SCALE, Flava, FlavaConfig, initialise_module

DECODER_PREFIX = "codebook.decoder."

HEADS = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head")


def assemble(
    config: FlavaConfig,
    state_dict: Mapping[str, Tensor],
    mapping: KeyMapping,
    missing_parts: Collection[str],
    checkpoint: Checkpoint,
) -> Flava:
    """A FLAVA with published weights, and with the codebook's decoder if its file is beside them.

    Args:
        missing_parts: those of `OPTIONAL_PARTS` that the checkpoint lacks, apart from the decoder.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; all of them in one error.
    """
    decoder = _read_decoder(checkpoint.folder)
    if decoder:
        width = len(decoder.get(f"{DECODER_PREFIX}input.bias", ()))
        codebook = replace(config.codebook, decoder_input_width=max(1, width))
        config = replace(config, codebook=codebook)
    model = empty_model(lambda: Flava(config))
    model.missing_parts = frozenset(missing_parts) | (set() if decoder else {"codebook.decoder"})
    ours = present_tensors(model)
    published = (name for name in ours if not name.startswith(DECODER_PREFIX))
    keys = {
        **published_keys(published, mapping, QUERY_KEY_VALUE),
        **{name: [name] for name in ours if name.startswith(DECODER_PREFIX)},
    }
    load_weights(model, {**state_dict, **decoder}, keys, origin=checkpoint.origin)
    for part in model.missing_parts:
        _initialise_part(model, part)
    return model.eval()


def _initialise_part(model: Flava, part: str) -> None:
    """Give a missing part the initial values that a new model has."""
    if part == "logit_scale":
        nn.init.constant_(model.logit_scale, INITIAL_LOGIT_SCALE)
        return
    for module in model.get_submodule(part).modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if part.startswith("codebook."):
            initialise_convolution(module)
        else:
            initialise_module(module, model.config.init_std)


def present_tensors(model: Flava) -> dict[str, Tensor]:
    """The state dict of a model without its missing parts."""
    missing_parts = tuple(model.missing_parts)
    return {name: t for name, t in model.state_dict().items() if not name.startswith(missing_parts)}


def published_state_dict(model: Flava, mapping: KeyMapping) -> dict[str, Tensor]:
    """The state dict under published keys, without missing parts and the codebook's decoder."""
    ours = {n: t for n, t in present_tensors(model).items() if not n.startswith(DECODER_PREFIX)}
    return {key: tensor.contiguous() for key, tensor in export_state_dict(ours, mapping).items()}


def _read_decoder(folder: Path | None) -> dict[str, Tensor]:
    """The tensors of the codebook's decoder under our keys; empty if its file is not there."""
    if folder is None or not (folder / DECODER_FILE).is_file():
        return {}
    return {f"{DECODER_PREFIX}{n}": t for n, t in read_tensors(folder / DECODER_FILE).items()}


def write_decoder(model: Flava, folder: Path) -> None:
    """Write the codebook's decoder into a file of its own, unless the model lacks it."""
    if "codebook.decoder" not in model.missing_parts:
        state = model.codebook.decoder.state_dict()
        save_file({name: t.contiguous() for name, t in state.items()}, folder / DECODER_FILE)


class ShapeReader:
    """Looks up shapes in a published state dict by our keys, and collects what is wrong."""

    def __init__(self, state_dict: Mapping[str, Tensor], mapping: KeyMapping) -> None:
        self.state_dict, self.mapping = state_dict, mapping
        self.problems: list[str] = []

    def has(self, name: str) -> bool:
        return rename(name, self.mapping) in self.state_dict

    def size(self, name: str, dimension: int) -> int:
        """One dimension of a tensor; if there is no such dimension, 1, and a problem is noted."""
        key = rename(name, self.mapping)
        shape = self.state_dict[key].shape if key in self.state_dict else torch.Size()
        if not -len(shape) <= dimension < len(shape):
            found = f"is {list(shape)}" if key in self.state_dict else "is missing"
            self.problems.append(f"{key} {found}, which should tell the geometry")
            return 1
        return shape[dimension]

    def depth(self, pattern: str) -> int:
        """How many tensors there are whose names have 0, 1, 2, ... in place of ``{}``."""
        return len(list(takewhile(lambda i: self.has(pattern.format(i)), count())))


def infer_flava_config(
    state_dict: Mapping[str, Tensor],
    mapping: KeyMapping,
    origin: str,
    heads: Mapping[str, int] | None = None,
) -> FlavaConfig:
    """The configuration of a FLAVA whose checkpoint has no config, from the shapes of its tensors.

    Args:
        heads: attention heads of the image, text and multimodal encoder, if they are known.
            Otherwise each head is taken to be 64 wide, as in every published model.

    Raises:
        ValueError: tensors that tell the geometry are missing, or nothing tells the number of
            heads; all of it in one error.
    """
    shapes = ShapeReader(state_dict, mapping)
    encoders: dict[str, dict[str, Any]] = {
        kind: {
            "width": (width := shapes.size(f"{kind}_encoder.norm.weight", 0)),
            "depth": shapes.depth(f"{kind}_encoder.blocks.{{}}.norm_before.weight"),
            "heads": heads[kind] if heads else _infer_heads(kind, width, shapes),
            "mlp_width": shapes.size(f"{kind}_encoder.blocks.0.mlp_in.weight", 0),
        }
        for kind in ("image", "text", "multimodal")
    }
    patch, grid = shapes.size("image_encoder.patches.weight", -1), _infer_grid(shapes)
    vocabulary_size = shapes.size("text_encoder.words.weight", 0)
    max_length = shapes.size("text_encoder.positions.weight", 0)
    projection_width = shapes.size("image_projection.weight", 0)
    codebook = _infer_codebook(shapes)
    raise_if_any(shapes.problems, f"the weights of {origin} do not fit")
    return FlavaConfig(
        image=ImageConfig(image_size=patch * grid, patch_size=patch, **encoders["image"]),
        text=TextConfig(vocabulary_size=vocabulary_size, max_length=max_length, **encoders["text"]),
        multimodal=MultimodalConfig(**encoders["multimodal"]),
        projection_width=projection_width,
        codebook=codebook,
    )


def _infer_heads(kind: str, width: int, shapes: ShapeReader) -> int:
    if width > 1 and width % HEAD_WIDTH:
        shapes.problems.append(
            f"the number of attention heads is not in the tensors, and the {kind} encoder's width "
            f"{width} is no multiple of {HEAD_WIDTH}, the published width of a head: put the "
            "config.json beside the weights"
        )
    return max(1, width // HEAD_WIDTH)


def _infer_grid(shapes: ShapeReader) -> int:
    """Patches on a side of the image."""
    patches = shapes.size("image_encoder.positions", 1) - 1
    if patches > 0 and isqrt(patches) ** 2 != patches:
        shapes.problems.append(f"the {patches} image positions are no square")
    return isqrt(max(0, patches))


def _infer_codebook(shapes: ShapeReader) -> CodebookConfig:
    """The published codebook's configuration, but for what the tensors tell otherwise."""
    known: dict[str, int] = {}
    if shapes.has("mim_head.decoder.weight"):
        known["codes"] = shapes.size("mim_head.decoder.weight", 0)
    if shapes.has("codebook.encoder.input.weight"):
        known["width"] = shapes.size("codebook.encoder.input.weight", 0)
        known["codes"] = shapes.size("codebook.encoder.output.weight", 0)
        known["blocks"] = shapes.depth("codebook.encoder.groups.0.{}.convolutions.0.weight")
    return CodebookConfig(**known)

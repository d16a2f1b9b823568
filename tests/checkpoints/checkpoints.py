"""What the tests of the layouts share: a model's tensors as they would be read from files."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from flava.checkpoints.layout import Checkpoint, Layout


def stored(tensors: dict[str, Tensor], **others: object) -> Checkpoint:
    return Checkpoint(origin="weights.pt", state_dict=tensors, **others)  # pyright: ignore[reportArgumentType]


def saved(model: PreTrainedModel, folder: Path) -> Checkpoint:
    """As transformers writes it, which is not always as the model's own state dict is named."""
    model.save_pretrained(folder)
    return Checkpoint(
        origin=str(folder),
        state_dict=load_file(folder / "model.safetensors"),
        config=json.loads((folder / "config.json").read_text()),
        folder=folder,
    )


def recognised(layouts: tuple[Layout, ...], checkpoint: Checkpoint) -> nn.Module:
    """What the one layout that matches builds of it."""
    (layout,) = [layout for layout in layouts if layout.matches(checkpoint)]
    model = layout.build(checkpoint)
    assert not model.training
    return model


def spread(tensor: Tensor) -> float:
    """How much the rows differ: none may pass for another."""
    return torch.cdist(tensor.flatten(1), tensor.flatten(1)).fill_diagonal_(torch.inf).min().item()

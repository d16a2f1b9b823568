"""Turns a published checkpoint into a model: reads it, recognises its layout, builds the model."""

from pathlib import Path

from torch import nn

from flava.checkpoints import (
    clip_huggingface,
    clip_openai,
    codebooks,
    flava_huggingface,
    flava_torchmultimodal,
    image_encoders,
    native,
    text_encoders,
)
from flava.checkpoints.layout import Checkpoint
from flava.checkpoints.reading import download, find_checkpoint, looks_like_hub_id, read_path

LAYOUTS = (
    *native.LAYOUTS,
    *flava_huggingface.LAYOUTS,
    *flava_torchmultimodal.LAYOUTS,
    *clip_openai.LAYOUTS,
    *clip_huggingface.LAYOUTS,
    *codebooks.LAYOUTS,
    *image_encoders.LAYOUTS,
    *text_encoders.LAYOUTS,
)
"""Every layout that can be read; the first that matches a checkpoint builds its model."""

SHOWN_KEYS = 8
"""How many keys of an unknown checkpoint the error names."""


def read_checkpoint(source: str | Path) -> Checkpoint:
    """The weights of a file, of a folder (also a run's), or of a model on the hub.

    A string is taken for a hub id if there is no such path and it looks like
    ``organisation/name``.

    Raises:
        FileNotFoundError: there is nothing of that name, or the hub cannot be reached.
        ValueError: a file is damaged, or a pickle holds more than tensors.
    """
    path = Path(source).expanduser()
    if isinstance(source, str) and not path.exists() and looks_like_hub_id(source):
        return read_path(download(source))
    if not path.exists():
        find_checkpoint(path)  # raises the error that says what is expected
    return read_path(path)


def build_model_from(checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint: `Flava`, or a part of one, in evaluation mode on the CPU.

    Raises:
        ValueError: the layout is unknown, or the weights do not fit; every problem is listed.
    """
    for layout in LAYOUTS:
        if layout.matches(checkpoint):
            return layout.build(checkpoint)
    keys = sorted(checkpoint.state_dict)
    shown = ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
    known = "\n  ".join(layout.name for layout in LAYOUTS)
    raise ValueError(
        f"{checkpoint.origin} is in no layout that is known. It holds {len(keys)} entries: "
        f"{shown}\nKnown are:\n  {known}"
    )


def load_pretrained(source: str | Path) -> nn.Module:
    """The model of any published checkpoint, in evaluation mode on the CPU.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint` and `build_model_from`.
    """
    return build_model_from(read_checkpoint(source))

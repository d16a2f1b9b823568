"""Any published checkpoint to a model: read what is there, recognise its layout, build."""

from pathlib import Path

from torch import nn

from flava.checkpoints import (
    clip_huggingface,
    clip_openai,
    codebooks,
    huggingface,
    image_encoders,
    native,
    text_encoders,
    torchmultimodal,
)
from flava.checkpoints.layout import Stored
from flava.checkpoints.reading import download, find_checkpoint, looks_like_hub_id, read_path

LAYOUTS = (
    *native.LAYOUTS,
    *huggingface.LAYOUTS,
    *torchmultimodal.LAYOUTS,
    *clip_openai.LAYOUTS,
    *clip_huggingface.LAYOUTS,
    *codebooks.LAYOUTS,
    *image_encoders.LAYOUTS,
    *text_encoders.LAYOUTS,
)
"""Every layout that is known; the first that recognises a checkpoint builds its model."""

SHOWN = 8
"""Names of an unknown checkpoint in the error."""


def read(source: str | Path) -> Stored:
    """The weights of a file, a folder (a run's too) or, for a string, a model's id on the hub.

    A string means the hub if no such path exists and it looks like ``organisation/name``.

    Raises:
        FileNotFoundError: there is nothing of that name, or the hub cannot be reached.
        ValueError: a file is damaged, or a pickle holds more than tensors.
    """
    path = Path(source).expanduser()
    if isinstance(source, str) and not path.exists() and looks_like_hub_id(source):
        return read_path(download(source))
    if not path.exists():
        find_checkpoint(path)
    return read_path(path)


def build(stored: Stored) -> nn.Module:
    """The model of a checkpoint: `Flava`, or a part of one, in evaluation mode on the CPU.

    Raises:
        ValueError: the layout is unknown, or the weights do not fit it; every misfit is listed.
    """
    for layout in LAYOUTS:
        if layout.matches(stored):
            return layout.build(stored)
    names = sorted(stored.tensors)
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    raise ValueError(
        f"{stored.origin} is in no layout that is known. It holds {len(names)} entries: {shown}\n"
        "Known are:\n  " + "\n  ".join(layout.name for layout in LAYOUTS)
    )


def load_pretrained(source: str | Path) -> nn.Module:
    """`build` of `read`: any published checkpoint as a model, in evaluation mode on the CPU."""
    return build(read(source))

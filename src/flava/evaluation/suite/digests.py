"""Short names for rows and for weights: another name, another content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from flava.data.labelled import Row


def rows_digest(rows: Sequence[Row]) -> str:
    """Names rows with their content and targets, in order; of images in files, name and size."""
    digest = hashlib.sha256()
    for row in rows:
        image = row.image
        if isinstance(image, Path):
            image = (image.name, image.stat().st_size if image.is_file() else None)
        content = (row.key, row.text, row.second, row.label, row.score, row.answers, image)
        digest.update(repr(content).encode(errors="replace"))
    return digest.hexdigest()[:16]


def weights_digest(module: nn.Module) -> str:
    """The SHA-256, in hexadecimal, of every tensor with its name; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()

"""A short name for weights: another name, other weights."""

import hashlib

import torch
from torch import nn

from flava.model.codebook import Codebook


def weights_digest(module: nn.Module) -> str:
    """The SHA-256, in hexadecimal, of every tensor with its name; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def codes_name(codebook: Codebook) -> str:
    """What the codes of that codebook are stored under: 16 hexadecimal digits."""
    return weights_digest(codebook.encoder)[:16]

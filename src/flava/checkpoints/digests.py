"""A short name for weights: another name, other weights."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from flava.models.codebook import Codebook


def weights_digest(module: nn.Module) -> str:
    """The SHA-256, in hexadecimal, of every tensor with its name; the same on every device."""
    digest = hashlib.sha256()
    for part in parts_of(module.state_dict()):
        digest.update(part)
    return digest.hexdigest()


def parts_of(weights: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """What a digest of weights is of: every tensor's name, type and shape, then its bytes."""
    for name, tensor in sorted(weights.items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def codes_name(codebook: Codebook) -> str:
    """What the codes of that codebook are stored under: 16 hexadecimal digits."""
    return weights_digest(codebook.encoder)[:16]

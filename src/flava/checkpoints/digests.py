"""Hashes that identify weights: equal weights have equal digests, on every device."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from flava.models.codebook import Codebook


def weights_digest(module: nn.Module) -> str:
    """The SHA-256, in hexadecimal, of all tensors and their names."""
    digest = hashlib.sha256()
    for chunk in digest_chunks(module.state_dict()):
        digest.update(chunk)
    return digest.hexdigest()


def digest_chunks(state_dict: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes that a digest is computed of: each tensor's name, type and shape, then its data."""
    for name, tensor in sorted(state_dict.items()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def codebook_digest(codebook: Codebook) -> str:
    """16 hexadecimal digits that identify a codebook; precomputed codes are stored under them."""
    return weights_digest(codebook.encoder)[:16]

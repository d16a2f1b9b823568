"""Scaled dot-product attention, by the fastest way there is where it runs."""

from itertools import repeat

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

SCORES_AT_ONCE = 2**22
"""So many attention scores (8 MiB) stay in a core's cache; and glibc takes tensors beyond 32 MiB
from the kernel each time, page by page, which cost more than the products (docs/log.md)."""


def attend(
    query: Float[Tensor, "batch length heads size"],
    key: Float[Tensor, "batch length heads size"],
    value: Float[Tensor, "batch length heads size"],
    mask: Bool[Tensor, "#batch 1 #length length"] | None,
) -> Float[Tensor, "batch length heads size"]:
    """Attention over the keys where ``mask`` is True.

    By measurement (docs/log.md): torch's fused kernels on GPUs, and on CPUs in 32 bits. In 16 bits
    the CPU's fused kernel takes 1.1 to 5 times as long as the products spelt out, at any length.
    """
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    if query.is_cuda or query.dtype == torch.float32:
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        mixed = attend_in_parts(query, key, value, mask)
    return mixed.transpose(1, 2)


def attend_in_parts(
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads keys size"],
    value: Float[Tensor, "batch heads keys size"],
    mask: Bool[Tensor, "#batch 1 #queries keys"] | None,
) -> Float[Tensor, "batch heads queries size"]:
    """Plain products, with the scores of some samples in memory at a time."""
    if torch.compiler.is_compiling():  # each number of parts would be a program of its own
        return attend_to_all(query, key, value, mask)
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    samples = max(1, SCORES_AT_ONCE // (heads * queries * keys))
    if len(query) <= samples:
        return attend_to_all(query, key, value, mask)
    masks = repeat(None) if mask is None else mask.expand(len(query), -1, -1, -1).split(samples)
    parts = zip(query.split(samples), key.split(samples), value.split(samples), masks)  # noqa: B905
    return torch.cat([attend_to_all(*part) for part in parts])


def attend_to_all(
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads keys size"],
    value: Float[Tensor, "batch heads keys size"],
    mask: Bool[Tensor, "#batch 1 #queries keys"] | None,
) -> Float[Tensor, "batch heads queries size"]:
    """The same with all scores of the batch in memory."""
    heads = query.shape[:2]
    # The scale comes with the product, not by a pass before it. Nothing is read of what is added.
    nothing = query.new_empty(1, 1, 1)
    rows, columns = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    scale = query.shape[-1] ** -0.5
    scores = torch.baddbmm(nothing, rows, columns, beta=0, alpha=scale).unflatten(0, heads)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ value


def causal_mask(length: int, device: torch.device) -> Bool[Tensor, "1 1 length length"]:
    """States attend to themselves and to those before them."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]

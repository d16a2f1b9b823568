"""Scaled dot-product attention, by the fastest way there is where it runs."""

from collections.abc import Callable
from functools import cache
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flava.model.packing import Packing

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
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    samples = max(1, SCORES_AT_ONCE // (heads * queries * keys))
    if len(query) <= samples or torch.compiler.is_compiling():
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
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ value


def takes_segments(
    query: Float[Tensor, "tokens heads size"],
    mask: Bool[Tensor, "#batch 1 #length length"] | None,
) -> bool:
    """Whether `attend_to_segments` can take packed queries such as these.

    Its kernel is for GPUs, in 16 bits, for heads of a multiple of 8, and at least one query; and
    ``mask`` must leave out padding alone, as it does for all but CLIP's causal texts.
    """
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and len(query) > 0
        and mask is not None
        and mask.shape[-2] == 1
        and has_flash(query.device)
    )


@cache
def has_flash(device: torch.device) -> bool:
    """Whether torch has its flash kernel for packed sequences here: from NVIDIA's Ampere on.

    The CPU stands for the GPU that a run is planned for (`flava.training.outline`).
    """
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return segment_kernel() is not None and not old


@cache
def segment_kernel() -> Callable[..., Any] | None:
    """Torch's, since its version 2.10. Looked for when it is asked for: it comes with torch's
    compiler, which takes two seconds to import."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def attend_to_segments(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys heads size"],
    value: Float[Tensor, "keys heads size"],
    queried: Packing,
    known: Packing,
) -> Float[Tensor, "queries heads size"]:
    """Each sample's queries over its own keys, of the same samples packed by ``queried`` and
    ``known``; nothing is padded. Only where `takes_segments`."""
    kernel = segment_kernel()
    assert kernel is not None
    return kernel(query, key, value, queried.bounds, known.bounds, queried.longest, known.longest)

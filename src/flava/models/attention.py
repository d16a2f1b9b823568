"""Attention over padded batches and over packed samples (see `packing`).

For packed samples the fastest way depends on the device. On GPUs `varlen_attn` attends within each
sample. On CPUs, samples of equal length are attended to together. Otherwise samples are padded.
"""

from itertools import repeat

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flava.models.packing import Packing, unpack_if_packed

MAX_SCORES_AT_ONCE = 2**22
"""On CPUs, up to so many attention scores (8 MiB in 16 bits) are computed at once. These stay in a
core's cache. And glibc requests tensors beyond 32 MiB from the kernel each time, page by page,
which takes longer than the matrix products (docs/log.md)."""


def attend(
    query: Float[Tensor, "batch length heads size"],
    key: Float[Tensor, "batch length heads size"],
    value: Float[Tensor, "batch length heads size"],
    mask: Bool[Tensor, "#batch 1 #length length"] | None,
) -> Float[Tensor, "batch length heads size"]:
    """Scaled dot-product attention over the keys where ``mask`` is True.

    It uses torch's fused kernels on GPUs, and on CPUs in 32 bits. In 16 bits the CPU's fused kernel
    takes 1.1 to 5 times as long as separate matrix products, at any length (docs/log.md).
    """
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))
    if query.is_cuda or query.dtype == torch.float32:
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        attended = _attend_in_chunks(query, key, value, mask)
    return attended.transpose(1, 2)


def _attend_in_chunks(
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads keys size"],
    value: Float[Tensor, "batch heads keys size"],
    mask: Bool[Tensor, "#batch 1 #queries keys"] | None,
) -> Float[Tensor, "batch heads queries size"]:
    """Unfused attention, with the scores of only some samples in memory at a time."""
    if torch.compiler.is_compiling():  # every number of chunks would be compiled separately
        return _attend_unfused(query, key, value, mask)
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    samples = max(1, MAX_SCORES_AT_ONCE // (heads * queries * keys))
    if len(query) <= samples:
        return _attend_unfused(query, key, value, mask)
    masks = repeat(None) if mask is None else mask.expand(len(query), -1, -1, -1).split(samples)
    chunks = zip(query.split(samples), key.split(samples), value.split(samples), masks)  # noqa: B905
    return torch.cat([_attend_unfused(*chunk) for chunk in chunks])


def _attend_unfused(
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads keys size"],
    value: Float[Tensor, "batch heads keys size"],
    mask: Bool[Tensor, "#batch 1 #queries keys"] | None,
) -> Float[Tensor, "batch heads queries size"]:
    """Attention as two matrix products with a softmax between them."""
    heads = query.shape[:2]
    # baddbmm scales within the product. With beta=0 it does not read its first argument.
    unused = query.new_empty(1, 1, 1)
    rows, columns = query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)
    scale = query.shape[-1] ** -0.5
    scores = torch.baddbmm(unused, rows, columns, beta=0, alpha=scale).unflatten(0, heads)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1) @ value


def causal_mask(length: int, device: torch.device) -> Bool[Tensor, "1 1 length length"]:
    """Each state attends to itself and to those before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


SCORES_WORTH_A_CALL = 50_000
"""In 16 bits on CPUs, a call of `attend` takes as long as computing so many scores of padding
(docs/log.md). In 32 bits a call is cheaper, since attention is fused."""


def attend_packed(
    projected: Float[Tensor, "tokens 3 heads size"],
    packing: Packing,
    mask: Bool[Tensor, "#batch 1 #length length"],
) -> Float[Tensor, "tokens heads size"]:
    """Attention within each packed sample.

    ``projected`` are the queries, keys and values of the packed tokens; ``mask`` is the attention
    mask of the padded batch.
    """
    query, key, value = projected.unbind(1)
    if _can_use_varlen(query, packing, mask):
        return _varlen_attention(query, key, value, packing, packing)
    if _should_group_by_length(query, packing):
        return _attend_by_length(projected, packing, causal=_is_causal(mask))
    query, key, value = packing.unpack(projected).unbind(2)
    return packing.pack(attend(query, key, value, mask))


def attend_from_outputs(
    query: Float[Tensor, "outputs heads size"],
    key_value: Float[Tensor, "*tokens 2 heads size"],
    packing: Packing | None,
    mask: Bool[Tensor, "#batch 1 #length length"] | None,
    output_packing: Packing,
) -> Float[Tensor, "outputs heads size"]:
    """Attention only for the queries of ``output_packing``.

    ``key_value`` are the keys and values of all tokens, which are packed if there is a ``packing``.
    """
    if packing is not None and mask is not None and _can_use_varlen(query, packing, mask):
        key, value = key_value.unbind(1)
        return _varlen_attention(query, key, value, output_packing, packing)
    key, value = unpack_if_packed(key_value, packing).unbind(2)
    return output_packing.pack(attend(output_packing.unpack(query), key, value, mask))


def _is_causal(mask: Bool[Tensor, "#batch 1 #length length"]) -> bool:
    """Whether a mask differs between queries; masks of padding are the same for all."""
    return mask.shape[-2] > 1


def _can_use_varlen(
    query: Float[Tensor, "tokens heads size"],
    packing: Packing,
    mask: Bool[Tensor, "#batch 1 #length length"],
) -> bool:
    """Whether `_varlen_attention` works for these queries.

    Its kernel needs 16 bits, a head size that is a multiple of 8, and at least one query. ``mask``
    must exclude only padding, as it does for all but CLIP's causal texts.
    """
    return (
        packing.cu_seqlens is not None
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and len(query) > 0
        and not _is_causal(mask)
    )


def _varlen_attention(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys heads size"],
    value: Float[Tensor, "keys heads size"],
    query_packing: Packing,
    key_packing: Packing,
) -> Float[Tensor, "queries heads size"]:
    """Attention within each sample, by torch's kernel for packed samples.

    Queries and keys are of the same samples, packed in the same order.
    """
    from torch.nn.attention import varlen  # imports torch's compiler, which takes two seconds

    assert query_packing.cu_seqlens is not None
    attended = varlen.varlen_attn(
        query,
        key,
        value,
        query_packing.cu_seqlens,
        key_packing.cu_seqlens,
        query_packing.max_length,
        key_packing.max_length,
    )
    assert isinstance(attended, Tensor)
    return attended


def _should_group_by_length(query: Float[Tensor, "tokens heads size"], packing: Packing) -> bool:
    """Whether `_attend_by_length` is faster than padding.

    It is on CPUs, where the scores of padding that it saves outweigh its calls. Not in compiled
    code, which would be compiled again for each number of lengths.
    """
    if query.is_cuda or query.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    more_calls = len(packing.groups) - 1
    saved_scores = query.shape[1] * packing.padded_scores
    return query.dtype == torch.float32 or saved_scores >= more_calls * SCORES_WORTH_A_CALL


def _attend_by_length(
    projected: Float[Tensor, "tokens 3 heads size"], packing: Packing, *, causal: bool
) -> Float[Tensor, "tokens heads size"]:
    """Attention over the samples of each length together, and so without padding."""
    sizes = [length * samples for length, samples in packing.groups]
    rest = len(projected) - sum(sizes)  # tokens of rounding up
    *parts, _ = projected.split([*sizes, rest])
    whole_mask = causal_mask(packing.max_length, projected.device) if causal else None
    attended = []
    for part, (length, samples) in zip(parts, packing.groups, strict=True):
        query, key, value = part.unflatten(0, (samples, length)).unbind(2)
        mask = None if whole_mask is None else whole_mask[..., :length, :length]
        attended.append(attend(query, key, value, mask).flatten(0, 1))
    return torch.cat([*attended, projected.new_zeros(rest, *projected.shape[2:])])

"""Attention of padded batches and of packed samples, by the fastest kernel there is.

On GPUs that is a kernel for such segments, on CPUs samples of the same length at once; elsewhere
samples are padded for it.
"""

from itertools import repeat

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from flava.models.packing import Packing, unpacked

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


SPARED = 50_000
"""Attention scores of padding for which it is worth it to attend to one more length by itself, in
16 bits. In 32 bits it always is: there is a fused kernel, which is called once (docs/log.md)."""


def attend_packed(
    projected: Float[Tensor, "tokens 3 heads size"],
    packing: Packing,
    mask: Bool[Tensor, "#batch 1 #length length"],
) -> Float[Tensor, "tokens heads size"]:
    """``projected`` are queries, keys and values; ``mask`` is that of the padded samples."""
    query, key, value = projected.unbind(1)
    if takes_segments(query, packing, mask):
        return attend_to_segments(query, key, value, packing, packing)
    if takes_lengths(query, packing):
        return attend_by_length(projected, packing, causal=is_causal(mask))
    query, key, value = packing.unpack(projected).unbind(2)
    return packing.pack(attend(query, key, value, mask))


def attend_from(
    query: Float[Tensor, "outputs heads size"],
    both: Float[Tensor, "*tokens 2 heads size"],
    packing: Packing | None,
    mask: Bool[Tensor, "#batch 1 #length length"] | None,
    output_packing: Packing,
) -> Float[Tensor, "outputs heads size"]:
    """The same for the queries of ``output_packing`` alone; ``both`` are keys and values of all
    tokens, packed or not."""
    if packing is not None and mask is not None and takes_segments(query, packing, mask):
        key, value = both.unbind(1)
        return attend_to_segments(query, key, value, output_packing, packing)
    key, value = unpacked(both, packing).unbind(2)
    return output_packing.pack(attend(output_packing.unpack(query), key, value, mask))


def is_causal(mask: Bool[Tensor, "#batch 1 #length length"]) -> bool:
    """Padding alone is left out of sight of all queries alike."""
    return mask.shape[-2] > 1


def takes_segments(
    query: Float[Tensor, "tokens heads size"],
    packing: Packing,
    mask: Bool[Tensor, "#batch 1 #length length"],
) -> bool:
    """Whether `attend_to_segments` can take such queries.

    Its kernel is for 16 bits, for heads of a multiple of 8, and at least one query; and ``mask``
    must leave out padding alone, as it does for all but CLIP's causal texts.
    """
    return (
        packing.bounds is not None
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and len(query) > 0
        and not is_causal(mask)
    )


def attend_to_segments(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys heads size"],
    value: Float[Tensor, "keys heads size"],
    queried: Packing,
    known: Packing,
) -> Float[Tensor, "queries heads size"]:
    """By torch's kernel, of the same samples packed in the same order; nothing is padded."""
    from torch.nn.attention import varlen  # which brings torch's compiler: two seconds

    assert queried.bounds is not None
    longest = queried.longest, known.longest
    found = varlen.varlen_attn(query, key, value, queried.bounds, known.bounds, *longest)
    assert isinstance(found, Tensor)
    return found


def takes_lengths(query: Float[Tensor, "tokens heads size"], packing: Packing) -> bool:
    """Whether `attend_by_length` is the faster way: on CPUs, and not compiled, since a program
    would have to be compiled anew for each number of lengths."""
    if query.is_cuda or query.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    more = len(packing.groups) - 1
    return query.dtype == torch.float32 or query.shape[1] * packing.padding >= more * SPARED


def attend_by_length(
    projected: Float[Tensor, "tokens 3 heads size"], packing: Packing, *, causal: bool
) -> Float[Tensor, "tokens heads size"]:
    """Samples of the same length at once, and so without padding."""
    sizes = [length * samples for length, samples in packing.groups]
    rest = len(projected) - sum(sizes)
    *parts, _ = projected.split([*sizes, rest])
    past = causal_mask(packing.longest, projected.device) if causal else None
    mixed = []
    for part, (length, samples) in zip(parts, packing.groups, strict=True):
        query, key, value = part.unflatten(0, (samples, length)).unbind(2)
        mask = None if past is None else past[..., :length, :length]
        mixed.append(attend(query, key, value, mask).flatten(0, 1))
    return torch.cat([*mixed, projected.new_zeros(rest, *projected.shape[2:])])

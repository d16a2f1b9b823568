"""Retrieval: how often a right candidate is among the k most similar ones."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

RANKS = (1, 5, 10)
"""The k of R@k: those of the paper's tables, and 10."""

BLOCK_SIZE = 2**22
"""Similarities that are in memory at once, of which there are queries times candidates."""

SimilarityBlock = tuple[
    slice, Float[np.ndarray, "rows candidates"], Bool[np.ndarray, "rows candidates"]
]
"""Some of the queries: which, their similarities, and which candidates are right."""


def ranks(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "candidates width"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
    *,
    block_size: int = BLOCK_SIZE,
) -> Int[np.ndarray, " queries"]:
    """The rank, from 0, of each query's best right candidate by inner product.

    A candidate is right if it has the query's id, so that an image may have several captions and
    a caption several images. A wrong candidate that is exactly as similar counts as better: a
    model that gives everything the same embedding retrieves nothing. Exact; in blocks of queries,
    so that no more than ``block_size`` similarities, or one query's, are in memory.

    Raises:
        ValueError: a query has no right candidate, or a similarity is not finite.
    """
    first_right = np.zeros(len(queries), dtype=np.int64)
    for rows, similarity, right in _blocks(queries, gallery, query_ids, gallery_ids, block_size):
        best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
        first_right[rows] = ((similarity >= best) & ~right).sum(axis=1)
    return first_right


def nearest(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "candidates width"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
    k: int,
    *,
    block_size: int = BLOCK_SIZE,
) -> Int[np.ndarray, "queries k"]:
    """The rows of each query's first ``k`` candidates, or of all if there are fewer; best first.

    In the order that `ranks` counts in, and in as little memory; errors as there.
    """
    first = np.zeros((len(queries), min(k, len(gallery))), dtype=np.int64)
    for rows, similarity, right in _blocks(queries, gallery, query_ids, gallery_ids, block_size):
        first[rows] = np.lexsort((right, -similarity), axis=-1)[:, : first.shape[1]]
    return first


def _blocks(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "candidates width"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
    block_size: int,
) -> Iterator[SimilarityBlock]:
    """Every query's similarities; errors as `ranks`."""
    without = query_ids[~np.isin(query_ids, gallery_ids)][:5].tolist()
    if without:
        raise ValueError(f"no candidate is right for the queries of ids {without}")
    count = max(1, block_size // max(1, len(gallery)))
    for start in range(0, len(queries), count):
        rows = slice(start, start + count)
        similarity = queries[rows] @ gallery.T
        if not np.isfinite(similarity).all():
            raise ValueError(
                "the embeddings hold numbers that are not finite: the model has diverged"
            )
        yield rows, similarity, query_ids[rows, None] == gallery_ids[None, :]


def recall(ranks: Int[np.ndarray, " queries"], k: int) -> float:
    """R@k: the share of queries whose best right candidate is among the first ``k``."""
    return float((ranks < k).mean())


def chance_recall(
    query_ids: Int[np.ndarray, " queries"], gallery_ids: Int[np.ndarray, " candidates"], k: int
) -> float:
    """The expected R@k of candidates in random order; k / n where each query has one right one."""
    ids, counts = np.unique(gallery_ids, return_counts=True)
    per_id = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    missing = {count: _miss(len(gallery_ids), count, k) for count in set(per_id.values())}
    return float(np.mean([1 - missing[per_id[i]] for i in query_ids.tolist()]))


def _miss(candidates: int, right: int, k: int) -> float:
    """The chance that ``k`` of the candidates, drawn without replacement, hold no right one."""
    k = min(k, candidates)
    drawn = np.arange(k)
    return float(np.prod(np.clip(candidates - right - drawn, 0, None) / (candidates - drawn)))


def rerank(
    ranks: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, "queries k"],
    scores: Float[np.ndarray, "queries k"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " gallery"],
) -> Int[np.ndarray, " queries"]:
    """The rank, from 0, of the best right one when the first k are put in the order of ``scores``.

    Where none of them is right it keeps its rank among all, which ``ranks`` holds. A wrong
    candidate with exactly the same score counts as better, as in `ranks`.
    """
    right = gallery_ids[candidates] == query_ids[:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    reranked = ((scores >= best) & ~right).sum(axis=1)
    return np.where(right.any(axis=1), reranked, ranks)

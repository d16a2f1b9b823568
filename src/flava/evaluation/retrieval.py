"""Retrieval: how often a right candidate is among the k most similar ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

RANKS = (1, 5, 10)
"""The k of R@k: those of the paper's tables, and 10."""


def ranks(
    queries: Float[np.ndarray, "queries width"],
    gallery: Float[np.ndarray, "candidates width"],
    query_ids: Int[np.ndarray, " queries"],
    gallery_ids: Int[np.ndarray, " candidates"],
) -> Int[np.ndarray, " queries"]:
    """The place, from 0, of each query's best right candidate by inner product.

    A candidate is right if it has the query's id, so that an image may have several captions and
    a caption several images. A wrong candidate that is exactly as similar counts as better: a
    model that gives everything the same embedding retrieves nothing.

    Raises:
        ValueError: a query has no right candidate, or a similarity is not finite.
    """
    similarity = queries @ gallery.T
    if not np.isfinite(similarity).all():
        raise ValueError("the embeddings hold numbers that are not finite: the model has diverged")
    right = query_ids[:, None] == gallery_ids[None, :]
    if not right.any(axis=1).all():
        lost = query_ids[~right.any(axis=1)][:5].tolist()
        raise ValueError(f"no candidate is right for the queries of ids {lost}")
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    return ((similarity >= best) & ~right).sum(axis=1)


def recall(places: Int[np.ndarray, " queries"], k: int) -> float:
    """R@k: the share of queries whose best right candidate is among the first ``k``."""
    return float((places < k).mean())


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


def number(names: Sequence[str]) -> Int[np.ndarray, " names"]:
    """The same small integer for the same name, in order of first appearance."""
    ids = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([ids[name] for name in names])

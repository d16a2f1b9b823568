import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.evaluation.retrieval import chance_recall, nearest, ranks, recall


def by_sorting(queries, gallery, query_ids, gallery_ids, k: int) -> float:
    """R@k, one query after the other, by a full sort; equals stand before the right one."""
    hits = 0
    for query, wanted in zip(queries, query_ids, strict=True):
        scored = [
            (-float(query @ candidate), candidate_id == wanted)
            for candidate, candidate_id in zip(gallery, gallery_ids, strict=True)
        ]
        hits += any(right for _, right in sorted(scored)[:k])
    return hits / len(queries)


@given(
    seed=st.integers(0, 10_000),
    concepts=st.integers(1, 7),
    coarse=st.booleans(),
    block_size=st.integers(1, 200),
)
def test_equals_brute_force_in_blocks_of_any_size_with_many_right_ones_and_with_ties(
    seed: int, concepts: int, coarse: bool, block_size: int
) -> None:
    rng = np.random.default_rng(seed)
    query_ids = rng.integers(0, concepts, 9)
    gallery_ids = np.concatenate([np.arange(concepts), rng.integers(0, concepts, 8)])
    # Few distinct values make many ties.
    queries, gallery = (rng.normal(size=(len(ids), 3)) for ids in (query_ids, gallery_ids))
    if coarse:
        queries, gallery = queries.round(), gallery.round()
    places = ranks(queries, gallery, query_ids, gallery_ids, block_size=block_size)
    for k in (1, 5, 10):
        assert recall(places, k) == by_sorting(queries, gallery, query_ids, gallery_ids, k)
        first = nearest(queries, gallery, query_ids, gallery_ids, k, block_size=block_size)
        hits = (gallery_ids[first] == query_ids[:, None]).any(axis=1)
        assert hits.tolist() == (places < k).tolist()


def test_any_of_several_captions_of_an_image_is_right() -> None:
    image = np.array([[1.0, 0.0]])
    captions = np.array([[0.1, 0.0], [0.9, 0.0], [0.5, 0.0]])
    assert ranks(image, captions, np.array([4]), np.array([4, 4, 7])).tolist() == [0]
    assert ranks(image, captions, np.array([4]), np.array([4, 7, 4])).tolist() == [1]
    assert ranks(image, captions, np.array([4]), np.array([4, 7, 7])).tolist() == [2]


def test_a_collapsed_model_retrieves_nothing() -> None:
    same, ids = np.ones((20, 4)), np.arange(20)
    assert recall(ranks(same, same, ids, ids), 10) == 0


def test_a_model_collapsed_to_any_vector_retrieves_nothing_in_blocks() -> None:
    vector = np.random.default_rng(0).normal(size=512).astype(np.float32)
    ids = np.arange(331)
    same = np.tile(vector / np.linalg.norm(vector), (331, 1))
    assert recall(ranks(same, same, ids, ids, block_size=7 * 331), 10) == 0


def test_the_nearest_are_in_order_and_no_more_than_there_are() -> None:
    gallery = np.array([[0.1], [0.9], [0.5]])
    one = np.array([[1.0]]), gallery, np.array([2]), np.arange(3)
    assert nearest(*one, 2).tolist() == [[1, 2]]
    assert nearest(*one, 9).tolist() == [[1, 2, 0]]


def test_memory_does_not_grow_with_the_product() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = (rng.normal(size=(3000, 8)).astype(np.float32) for _ in range(2))
    ids = np.arange(3000)
    tracemalloc.start()
    ranks(queries, gallery, ids, ids, block_size=30_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All similarities at once would take 36 MB, and their masks more.
    assert peak < 2_000_000


def test_the_right_order_retrieves_everything() -> None:
    ids = np.arange(20)
    assert recall(ranks(np.eye(20), np.eye(20), ids, ids), 1) == 1


def test_chance_is_k_of_n_and_what_random_embeddings_reach() -> None:
    ids = np.arange(50)
    assert [chance_recall(ids, ids, k) for k in (1, 5, 10, 60)] == pytest.approx(
        [0.02, 0.1, 0.2, 1]
    )
    rng = np.random.default_rng(0)
    query_ids, gallery_ids = (
        np.repeat(np.arange(5), 400),
        np.repeat(np.arange(10), [1, 2, 3, 4, 5] * 2),
    )
    places = ranks(rng.normal(size=(2000, 40)), rng.normal(size=(30, 40)), query_ids, gallery_ids)
    for k in (1, 5, 10):
        expected = chance_recall(query_ids, gallery_ids, k)
        # Queries share their candidates, so they are not 2,000 independent draws.
        assert recall(places, k) == pytest.approx(expected, abs=0.06)


def test_what_cannot_be_ranked_is_an_error() -> None:
    ids = np.arange(3)
    with pytest.raises(ValueError, match="not finite: the model has diverged"):
        ranks(np.full((3, 2), np.nan), np.ones((3, 2)), ids, ids)
    with pytest.raises(ValueError, match=r"no candidate is right for the queries of ids \[2\]"):
        ranks(np.ones((3, 2)), np.ones((2, 2)), ids, ids[:2])

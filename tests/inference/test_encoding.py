import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.inference.encoding import _groups, prepare


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 200))
def test_every_index_comes_once_from_short_to_long_within_the_bound(lengths, tokens):
    found = list(_groups(lengths, tokens))
    flat = [index for group in found for index in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths)
    for group in found:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= tokens


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(60, 200))
def test_no_two_neighbouring_groups_could_be_one(lengths, tokens):
    found = list(_groups(lengths, tokens))
    for first, second in itertools.pairwise(found):
        # One more from the next group would not have fitted.
        assert (len(first) + 1) * lengths[second[0]] > tokens


def test_padding_costs_a_few_percent_in_a_corpus_of_mixed_lengths():
    lengths = [2 + (i * i) % 500 for i in range(3000)]
    padded = sum(len(g) * max(lengths[i] for i in g) for g in _groups(lengths, 8192))
    assert padded < 1.06 * sum(lengths)
    # In the order given, in batches of 32, it would be over a half.
    naive = sum(32 * max(lengths[i : i + 32]) for i in range(0, 3000, 32))
    assert naive > 1.5 * sum(lengths)


def test_results_come_in_order_however_long_each_takes():
    batches = [[3, 1, 2], [], [5], [4, 4]]

    def slow(n: int) -> int:
        time.sleep(0.002 * n)
        return 10 * n

    expected = [[10 * n for n in batch] for batch in batches]
    assert list(prepare(slow, iter(batches))) == expected


def test_one_batch_is_prepared_ahead_and_no_more():
    started: list[int] = []
    taken = 0

    def batches() -> Iterator[Sequence[int]]:
        nonlocal taken
        for n in range(10):
            taken += 1
            yield [n]

    def note(n: int) -> int:
        started.append(n)
        return n

    results = prepare(note, batches())
    assert next(results) == [0]
    for _ in range(100):
        if len(started) == 2:
            break
        time.sleep(0.01)
    assert sorted(started) == [0, 1]
    assert taken == 2
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert threading.active_count() < 20


def test_an_error_comes_with_its_batch():
    def fail(n: int) -> int:
        if n == 3:
            raise OSError("three")
        return n

    results = prepare(fail, iter([[1], [2], [3], [4]]))
    assert next(results) == [1]
    assert next(results) == [2]
    with pytest.raises(OSError, match="three"):
        next(results)

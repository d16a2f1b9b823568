"""The official rules, worked out by hand from their definition."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.suite.multimodal.vqa_answers import (
    _normalise_answer,
    answer_scorer,
    soft_targets,
    vocabulary,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # articles, wherever they stand; not within words
        ("A dog", "dog"),
        ("an apple on the table", "apple on table"),
        ("the", ""),
        ("another theatre", "another theatre"),
        # number words up to ten, and none
        ("Two", "2"),
        ("none", "0"),
        ("ten of zero", "10 of 0"),
        ("eleven", "eleven"),
        ("twenty one", "twenty 1"),
        # contractions whose apostrophe is missing; whole ones stay
        ("dont", "don't"),
        ("Couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("y'allll", "y'all'll"),
        ("its", "its"),
        ("lets", "lets"),
        ("shouldve stopped", "should've stopped"),
        ("somebody'd", "somebodyd"),
        # apostrophes and colons are no punctuation
        ("dog's", "dog's"),
        ("2:30", "2:30"),
        # punctuation between letters leaves a blank, beside a blank it goes
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("t-shirt", "t shirt"),
        ("yes!", "yes"),
        ("red,white", "red white"),
        ("red, white", "red white"),
        ("(left)", "left"),
        ("half-open, half-closed", "half open half closed"),
        ("half- open half-closed", "half open halfclosed"),
        # a comma between digits takes every sign out without a blank, of the whole answer
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        # periods: kept before a digit, gone elsewhere
        ("2.5", "2.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.a.", "usa"),
        ("no. 7", "no 7"),
        # blanks, line breaks, capitals
        ("  New\tYork\nCity ", "new york city"),
        ("", ""),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert _normalise_answer(answer) == expected


def by_leaving_one_out(answer: str, others: list[str]) -> float:
    """The mean over the sets of all but one; of ten answers these are the sets of nine."""
    sets = list(combinations(range(len(others)), len(others) - 1))
    scores = [min(1, sum(others[i] == answer for i in rest) / 3) for rest in sets]
    return sum(scores) / len(scores)


@given(st.lists(st.sampled_from(["cat", "dog", "bird", "fish"]), min_size=10, max_size=10))
def test_accuracy_is_the_mean_over_all_sets_of_nine(answers: list[str]) -> None:
    for answer in ("cat", "dog", "cow"):
        expected = by_leaving_one_out(answer, answers)
        assert answer_scorer(answers)(answer) == pytest.approx(expected)


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)])
def test_scores_of_few_matches(matches: int, score: float) -> None:
    answers = ["cat"] * matches + ["dog"] * (10 - matches)
    assert answer_scorer(answers)("cat") == pytest.approx(score)
    assert soft_targets(answers).get("cat", 0) == pytest.approx(score)


def test_answers_are_normalised_only_where_people_disagree() -> None:
    assert answer_scorer(["two"] * 9 + ["three"])("2") == 1
    assert answer_scorer(["2"] * 9 + ["3"])("The Two.") == 1
    # The official evaluation compares as they stand where all ten say the same.
    assert answer_scorer(["two"] * 10)("2") == 0
    assert answer_scorer(["two\n"] * 10)("two") == 1


def test_soft_targets_join_what_is_the_same_when_normalised() -> None:
    targets = soft_targets(["two", "2", "a 2", "dont", "don't", *["red"] * 5])
    assert targets == pytest.approx({"2": 0.9, "don't": 0.6, "red": 1})


def test_the_vocabulary_has_what_is_frequent_in_a_settled_order() -> None:
    commonest = ["yes"] * 12 + ["two"] * 5 + ["2"] * 4 + ["a dog"] * 9 + ["cat"] * 8 + ["no"] * 20
    assert vocabulary(commonest) == ("no", "yes", "2", "dog")
    assert vocabulary(reversed(commonest)) == vocabulary(commonest)
    assert vocabulary([]) == ()

"""Estimates, differences and answers, against what one gets by simulation and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from flava.evaluation.embedded_tasks import TASKS
from flava.evaluation.record import Evaluation, Figure
from flava.suite import comparison as statistics
from flava.suite import paper
from flava.suite.comparison import (
    QUESTIONS,
    ROWS,
    Estimate,
    answers,
    of_group,
    of_row,
    papers_average,
    rank_correlation,
)
from flava.suite.task import Group


def evaluation(value: float, *, groups: tuple[str, ...] = paper.GROUPS, n: int = 400) -> Evaluation:
    """All rows of these groups with the same figure."""
    return Evaluation(
        settings={},
        seconds=0.0,
        figures=tuple(
            Figure(task=row.task, split=row.split, metric=row.metric, value=value, n=n)
            for row in ROWS
            if row.group in groups
        ),
    )


def test_every_row_is_a_figure_that_is_measured() -> None:
    measured = {(task.name, task.split) for task in TASKS}
    assert {(row.task, row.split) for row in (*ROWS, *statistics.HEADS)} <= measured
    assert len({row.title for row in ROWS}) == len(ROWS)


def test_the_sampling_error_is_that_of_simulated_test_sets() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.binomial(400, 0.3, 20_000) / 400
    found = of_row(ROWS[0], [evaluation(0.3)])
    assert found is not None
    assert found.sampling == pytest.approx(drawn.std(), rel=0.02)


def test_the_error_over_seeds_is_that_of_their_mean() -> None:
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(2_000):
        seeds = tuple(rng.normal(0.3, 0.05, 5).tolist())
        means.append(sum(seeds) / 5)
        errors.append(Estimate(seeds, 0.0).error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.08)  # of five, 6 % too small


def test_a_difference_pairs_the_seeds() -> None:
    """What a seed does to both columns alike is no uncertainty of their difference."""
    first, second = Estimate((0.5, 0.3, 0.4), 0.0), Estimate((0.45, 0.25, 0.35), 0.0)
    difference = first.minus(second)
    assert difference.value == pytest.approx(0.05)
    assert difference.error == pytest.approx(0, abs=1e-12)
    assert not difference.is_noise
    assert Estimate((0.02,), 0.011).is_noise
    assert not Estimate((-0.03,), 0.011).is_noise


def test_a_group_without_one_of_its_rows_has_no_average() -> None:
    whole = evaluation(0.4)
    found = of_group("vision", [whole])
    assert found is not None
    assert found.value == pytest.approx(0.4)
    partial = replace(whole, figures=whole.figures[1:])
    assert of_group("vision", [partial]) is None
    assert of_group("vision", [whole, partial]) is None
    assert of_group("nlp", [partial]) is not None


def test_the_papers_averages_are_those_it_prints() -> None:
    """To its two digits, but for the three of NLP that are not the mean of their rows."""
    printed_as: tuple[tuple[Group, str], ...] = (
        ("vision", "Vision Avg."),
        ("multimodal", "Multimodal Avg."),
    )
    for group, name in printed_as:
        for column in paper.columns():
            printed, ours = paper.printed_average(name, column), papers_average(group, column)
            assert (printed is None) == (ours is None)
            if printed is not None and ours is not None:
                assert 100 * ours == pytest.approx(printed, abs=0.0051)


def test_an_answer_stands_beside_the_papers() -> None:
    columns = {"flava-c": [evaluation(0.6)], "flava-c-local": [evaluation(0.4)]}
    (answer,) = answers(QUESTIONS[0], columns)
    assert {g: d.value for g, d in answer.differences.items()} == pytest.approx(
        dict.fromkeys(paper.GROUPS, 0.2)
    )
    # Table C.1: 79.14 - 76.12, 64.80 - 62.99, 66.25 - 66.42.
    assert answer.papers["vision"] == pytest.approx(0.0302, abs=2e-4)
    assert answer.papers["nlp"] == pytest.approx(0.0181, abs=2e-4)
    assert answer.papers["multimodal"] == pytest.approx(-0.0017, abs=2e-4)
    assert [answer.agrees(group) for group in paper.GROUPS] == [True, True, False]


def test_noise_and_what_the_paper_sees_as_nothing_agree_with_nothing() -> None:
    columns = {"flava-c-local": [evaluation(0.41)], "clip-pmd": [evaluation(0.4)]}
    (answer,) = answers(QUESTIONS[-1], columns)
    assert answer.agrees("nlp") is None  # noise: 1 point of 400 items
    columns["flava-c-local"] = [evaluation(0.6)]
    (answer,) = answers(QUESTIONS[-1], columns)
    assert answer.agrees("nlp") is True
    assert answer.agrees("vision") is None  # 76.12 both


def test_columns_without_an_encoder_answer_what_they_can() -> None:
    columns = {"flava": [evaluation(0.5)], "flava-mm": [evaluation(0.5, groups=("nlp",))]}
    question = next(q for q in QUESTIONS if q.title == "Unimodal data added")
    (answer,) = answers(question, columns)
    assert set(answer.differences) == {"nlp"}


def test_the_rank_correlation_is_one_in_the_papers_order_and_minus_one_in_the_other() -> None:
    names = [c for c in paper.columns() if papers_average("nlp", c) is not None]
    inorder = sorted(names, key=lambda c: papers_average("nlp", c) or 0.0)
    for order, sign in ((inorder, 1), (inorder[::-1], -1)):
        columns = {c: [evaluation(0.1 + 0.02 * i)] for i, c in enumerate(order)}
        found = rank_correlation("nlp", columns)
        assert found is not None
        assert found == (pytest.approx(sign), len(names))
    assert rank_correlation("nlp", {c: [evaluation(0.3)] for c in names}) is None

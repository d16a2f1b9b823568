"""Estimates and their differences, against what one gets by simulation and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from flava.evaluation.embedded_tasks import TASKS
from flava.evaluation.record import Evaluation, Figure
from flava.suite import paper
from flava.suite.comparison import (
    ABLATIONS,
    HEAD_ROWS,
    ROWS,
    Estimate,
    differences,
    group_estimate,
    paper_average,
    rank_correlation,
    row_estimate,
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
    assert {(row.task, row.split) for row in (*ROWS, *HEAD_ROWS)} <= measured
    assert len({row.title for row in ROWS}) == len(ROWS)


def test_the_sampling_error_is_that_of_simulated_test_sets() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.binomial(400, 0.3, 20_000) / 400
    found = row_estimate(ROWS[0], [evaluation(0.3)])
    assert found is not None
    assert found.sampling_error == pytest.approx(drawn.std(), rel=0.02)


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
    difference = first - second
    assert difference.value == pytest.approx(0.05)
    assert difference.error == pytest.approx(0, abs=1e-12)
    assert not difference.is_noise
    assert Estimate((0.02,), 0.011).is_noise
    assert not Estimate((-0.03,), 0.011).is_noise


def test_a_group_without_one_of_its_rows_has_no_average() -> None:
    whole = evaluation(0.4)
    found = group_estimate("vision", [whole])
    assert found is not None
    assert found.value == pytest.approx(0.4)
    partial = replace(whole, figures=whole.figures[1:])
    assert group_estimate("vision", [partial]) is None
    assert group_estimate("vision", [whole, partial]) is None
    assert group_estimate("nlp", [partial]) is not None


def test_the_papers_averages_are_those_it_prints() -> None:
    """To its two digits, but for the three of NLP that are not the mean of their rows."""
    printed_as: tuple[tuple[Group, str], ...] = (
        ("vision", "Vision Avg."),
        ("multimodal", "Multimodal Avg."),
    )
    for group, name in printed_as:
        for column in paper.columns():
            printed, ours = paper._number(name, column), paper_average(group, column)
            assert (printed is None) == (ours is None)
            if printed is not None and ours is not None:
                assert 100 * ours == pytest.approx(printed, abs=0.0051)


def test_a_difference_is_compared_with_the_papers() -> None:
    columns = {"flava-c": [evaluation(0.6)], "flava-c-local": [evaluation(0.4)]}
    (difference,) = differences(ABLATIONS[0], columns)
    assert {g: d.value for g, d in difference.measured.items()} == pytest.approx(
        dict.fromkeys(paper.GROUPS, 0.2)
    )
    # Table C.1: 79.14 - 76.12, 64.80 - 62.99, 66.25 - 66.42.
    assert difference.published["vision"] == pytest.approx(0.0302, abs=2e-4)
    assert difference.published["nlp"] == pytest.approx(0.0181, abs=2e-4)
    assert difference.published["multimodal"] == pytest.approx(-0.0017, abs=2e-4)
    assert [difference.agrees(group) for group in paper.GROUPS] == [True, True, False]


def test_noise_and_what_the_paper_sees_as_nothing_agree_with_nothing() -> None:
    columns = {"flava-c-local": [evaluation(0.41)], "clip-pmd": [evaluation(0.4)]}
    (difference,) = differences(ABLATIONS[-1], columns)
    assert difference.agrees("nlp") is None  # noise: 1 point of 400 items
    columns["flava-c-local"] = [evaluation(0.6)]
    (difference,) = differences(ABLATIONS[-1], columns)
    assert difference.agrees("nlp") is True
    assert difference.agrees("vision") is None  # 76.12 both


def test_columns_without_an_encoder_differ_in_the_groups_that_both_have() -> None:
    columns = {"flava": [evaluation(0.5)], "flava-mm": [evaluation(0.5, groups=("nlp",))]}
    ablation = next(a for a in ABLATIONS if a.title == "Unimodal data added")
    (difference,) = differences(ablation, columns)
    assert set(difference.measured) == {"nlp"}


def test_the_rank_correlation_is_one_in_the_papers_order_and_minus_one_in_the_other() -> None:
    names = [c for c in paper.columns() if paper_average("nlp", c) is not None]
    inorder = sorted(names, key=lambda c: paper_average("nlp", c) or 0.0)
    for order, sign in ((inorder, 1), (inorder[::-1], -1)):
        columns = {c: [evaluation(0.1 + 0.02 * i)] for i, c in enumerate(order)}
        found = rank_correlation("nlp", columns)
        assert found is not None
        assert found == (pytest.approx(sign), len(names))
    assert rank_correlation("nlp", {c: [evaluation(0.3)] for c in names}) is None

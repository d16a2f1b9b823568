"""GLUE's metrics against scipy and against their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from flava.data.labelled import LabelledRow
from flava.suite.language.glue import COLA, MNLI, MRPC, STSB, GlueTask
from flava.suite.language.glue_metrics import _metric_value, best_constant, score, truth_of


def rows_of(task: GlueTask, targets: np.ndarray) -> list[LabelledRow]:
    if not task.classes:
        return [LabelledRow(shard="s", key=str(i), score=float(t)) for i, t in enumerate(targets)]
    return [
        LabelledRow(shard="s", key=str(i), label=task.classes[t]) for i, t in enumerate(targets)
    ]


def table(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """True and false positives, false and true negatives."""
    return tuple(  # pyright: ignore[reportReturnType]
        int(((predicted == p) & (truth == t)).sum()) for p, t in ((1, 1), (1, 0), (0, 1), (0, 0))
    )


def test_f1_and_matthews_follow_their_definitions():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.7, truth, 1 - truth)
    tp, fp, fn, tn = table(predicted, truth)
    outputs = torch.nn.functional.one_hot(torch.from_numpy(predicted)).float()
    found = score(MRPC, outputs, rows_of(MRPC, truth))
    assert list(found) == ["accuracy", "f1"]  # accuracy chooses the checkpoint
    assert found["accuracy"] == pytest.approx((tp + tn) / 200)
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert score(COLA, outputs, rows_of(COLA, truth))["matthews"] == pytest.approx(expected)


def test_correlations_are_scipys_and_do_not_depend_on_the_scale():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 26, 100) / 5  # with ties
    predicted = truth / 5 + rng.normal(size=100) / 4
    outputs = torch.from_numpy(predicted).float()[:, None]
    found = score(STSB, outputs, rows_of(STSB, truth / 5))
    assert next(iter(found)) == "negative_mse"
    assert found["negative_mse"] == pytest.approx(-np.mean((predicted - truth / 5) ** 2), rel=1e-5)
    assert found["pearson"] == pytest.approx(pearsonr(predicted, truth)[0], rel=1e-5)
    assert found["spearman"] == pytest.approx(spearmanr(predicted, truth)[0], rel=1e-5)


def test_one_and_the_same_answer_has_a_number_too():
    truth = np.array([0, 1, 1, 0, 1])
    same = torch.tensor([[1.0, 0.0]] * 5)
    assert score(MRPC, same, rows_of(MRPC, truth))["f1"] == 0.0
    assert score(COLA, same, rows_of(COLA, truth))["matthews"] == 0.0
    found = score(STSB, torch.full((5, 1), 0.3), rows_of(STSB, truth / 2))
    assert found["pearson"] == found["spearman"] == 0.0


def test_the_best_constant_answer_is_the_baseline():
    truth = truth_of(MNLI, rows_of(MNLI, np.array([0, 2, 2, 1])))
    assert best_constant("accuracy", MNLI, truth) == 0.5
    ones = np.array([0, 0, 0, 1])
    assert best_constant("f1", MRPC, ones) == pytest.approx(2 / 5)  # always 1: 1 of 4 is right
    assert best_constant("matthews", COLA, ones) == 0.0
    assert best_constant("pearson", STSB, ones / 1.0) == 0.0
    assert _metric_value("accuracy", ones, ones) == 1.0

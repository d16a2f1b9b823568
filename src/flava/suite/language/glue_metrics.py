"""GLUE's metrics, and the files of predictions that its server takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from flava.core.files import write_atomically
from flava.data.labelled import LabelledRow
from flava.suite.language.glue import HIGHEST_SCORE, GlueMetric, GlueTask


def score(
    task: GlueTask, outputs: Float[Tensor, "rows outputs"], rows: Sequence[LabelledRow]
) -> dict[str, float]:
    """All metrics of a task. The first chooses the checkpoint, as in RoBERTa's recipe: accuracy
    where there are classes, or else the negative mean squared error (README.glue.md,
    ``--best-checkpoint-metric``).
    """
    truth = truth_of(task, rows)
    if not task.classes:
        scores = outputs[:, 0].double().numpy()
        negative_mse = -float(np.mean((scores - truth) ** 2))
        return {"negative_mse": negative_mse} | {
            metric: _metric_value(metric, scores, truth) for metric in task.metrics
        }
    predicted = outputs.argmax(dim=1).numpy()
    names: list[GlueMetric] = ["accuracy", *task.metrics]
    return {metric: _metric_value(metric, predicted, truth) for metric in names}


def truth_of(task: GlueTask, rows: Sequence[LabelledRow]) -> Shaped[np.ndarray, " rows"]:
    """The number of each row's class, or its score in [0, 1]."""
    if not task.classes:
        return np.array([row.score for row in rows], dtype=np.float64)
    numbers = {name: number for number, name in enumerate(task.classes)}
    return np.array([numbers[row.label or ""] for row in rows])


def _metric_value(
    metric: GlueMetric, predicted: Shaped[np.ndarray, " n"], truth: Shaped[np.ndarray, " n"]
) -> float:
    """One metric. F1 is that of class 1 (paraphrase, duplicate).

    A metric that is not defined, because all predictions are the same, is 0.
    """
    match metric:
        case "accuracy":
            return float(accuracy_score(truth, predicted))
        case "f1":
            return float(f1_score(truth, predicted, zero_division=0))  # pyright: ignore[reportArgumentType]
        case "matthews":
            return float(matthews_corrcoef(truth, predicted))
        case "pearson":
            return _correlation(predicted, truth)
        case "spearman":
            return _correlation(rankdata(predicted), rankdata(truth))


def _correlation(x: Shaped[np.ndarray, " n"], y: Shaped[np.ndarray, " n"]) -> float:
    """Pearson's correlation; 0 if either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def best_constant(metric: GlueMetric, task: GlueTask, truth: Shaped[np.ndarray, " n"]) -> float:
    """The best value that the same answer to every row reaches on this data."""
    if not task.classes:
        return 0.0
    constants = (np.full_like(truth, number) for number in range(len(task.classes)))
    return max(_metric_value(metric, each, truth) for each in constants)


def write_submission(
    path: Path, task: GlueTask, rows: Sequence[LabelledRow], outputs: Float[Tensor, "rows outputs"]
) -> None:
    """Write a line for each row: its id, and its class in GLUE's words or its score from 0 to 5.

    Raises:
        OSError: it could not be written.
    """
    answers = zip(rows, _answers_of(task, outputs), strict=True)
    lines = ["index\tprediction", *(f"{row.key}\t{answer}" for row, answer in answers)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def _answers_of(task: GlueTask, outputs: Float[Tensor, "rows outputs"]) -> list[str]:
    """The predicted classes' words or scores, as the server reads them."""
    if task.classes:
        return [task.classes[number] for number in outputs.argmax(dim=1).tolist()]
    scores = (outputs[:, 0] * HIGHEST_SCORE).clamp(0, HIGHEST_SCORE)
    return [f"{score:.3f}" for score in scores.tolist()]

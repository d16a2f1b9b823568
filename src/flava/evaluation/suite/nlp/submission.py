"""Predictions of GLUE's test splits, in the files that its server takes."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from flava.data.labelled import Row
from flava.evaluation.suite.nlp.glue import HIGHEST_SCORE, Glue
from flava.training.files import write_whole

HEAD = "index\tprediction"


def write_submission(
    path: Path, task: Glue, rows: Sequence[Row], outputs: Float[Tensor, "rows outputs"]
) -> None:
    """A line a row: its id, and the class in GLUE's words or the score from 0 to 5.

    Raises:
        OSError: it could not be written.
    """
    answers = zip(rows, answers_of(task, outputs), strict=True)
    lines = [HEAD, *(f"{row.key}\t{answer}" for row, answer in answers)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def answers_of(task: Glue, outputs: Float[Tensor, "rows outputs"]) -> list[str]:
    """What the server reads: a class's word, or a score."""
    if task.classes:
        return [task.classes[number] for number in outputs.argmax(dim=1).tolist()]
    scores = (outputs[:, 0] * HIGHEST_SCORE).clamp(0, HIGHEST_SCORE)
    return [f"{score:.3f}" for score in scores.tolist()]

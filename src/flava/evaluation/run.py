"""Evaluation of a run's folder: its best checkpoint, to RUN/evaluation.json."""

from dataclasses import replace
from pathlib import Path

from flava.evaluation.harness import DEFAULT, EvaluationConfig, evaluate
from flava.evaluation.record import Evaluation, save_evaluation
from flava.evaluation.tasks import SPLITS
from flava.evaluation.words import headlines
from flava.model import Flava
from flava.model.published.files import find_checkpoint
from flava.model.published.load import load_pretrained


def evaluate_run(run_folder: Path, config: EvaluationConfig = DEFAULT) -> str:
    """Evaluate a run, write RUN/evaluation.json, and return the headlines as text.

    Raises:
        FileNotFoundError: the run has no checkpoint, or a split's shard is missing.
        ValueError: the checkpoint is damaged, or no FLAVA's; or as `evaluate`.
    """
    checkpoint = find_checkpoint(run_folder)
    model = load_pretrained(checkpoint)
    if not isinstance(model, Flava):
        raise ValueError(
            f"{checkpoint} holds a {type(model).__name__}: only a FLAVA can be evaluated. For the "
            f"curves of this run: flava report {run_folder}"
        )
    evaluation, pictures = evaluate(model, config=config)
    settings = {"checkpoint": checkpoint.resolve().name, **evaluation.settings}
    evaluation = replace(evaluation, settings=settings)
    path = save_evaluation(evaluation, pictures, run_folder)
    return "\n".join([f"evaluated {checkpoint}: {path}", *summary(evaluation)])


def summary(evaluation: Evaluation) -> list[str]:
    """The headlines beside their baselines, a line each."""
    lines = []
    for title, figure in headlines(evaluation):
        rivals = ", ".join(f"{name} {value:.3f}" for name, value in figure.baselines.items())
        where = SPLITS[figure.split].title if figure.split in SPLITS else figure.split
        lines.append(f"  {title:28}  {figure.value:.3f}  {where} ({rivals})")
    return lines

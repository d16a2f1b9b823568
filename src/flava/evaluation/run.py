"""Evaluation of a run's best checkpoint, or of a published one, to a folder's evaluation.json."""

from dataclasses import replace
from pathlib import Path

from flava.evaluation.harness import DEFAULT, EvaluationConfig, evaluate
from flava.evaluation.record import Evaluation, save_evaluation
from flava.evaluation.subject import Evaluated
from flava.evaluation.tasks import SPLITS
from flava.evaluation.words import headlines
from flava.model.published.hub import looks_like_hub_id
from flava.model.published.load import build, read


def evaluate_run(
    source: str | Path, config: EvaluationConfig = DEFAULT, *, output_dir: Path | None = None
) -> str:
    """Evaluate a model, write evaluation.json, and return the headlines as text.

    Args:
        source: A run's folder, whose best checkpoint is evaluated, or anything that
            `flava.model.published.load.read` takes.
        output_dir: Where evaluation.json goes; else into the source, which then is a folder.

    Raises:
        FileNotFoundError: there is no checkpoint, or a split's shard is missing.
        ValueError: the checkpoint is damaged, or neither FLAVA's nor CLIP's; or it is no folder
            and no ``output_dir`` is given; or as `evaluate`.
    """
    folder = folder_for_figures(source, output_dir)
    stored = read(source)
    model = build(stored)
    if not isinstance(model, Evaluated):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: only a FLAVA, a CLIP or an encoder of "
            f"images or texts can be evaluated. For the curves of a run: flava report {source}"
        )
    evaluation, pictures = evaluate(model, config=config)
    # Where the weights are: in a run "best" stands for one of its updates.
    place = stored.folder or Path(source)
    settings = {"checkpoint": place.resolve().name, **evaluation.settings}
    folder.mkdir(parents=True, exist_ok=True)
    path = save_evaluation(replace(evaluation, settings=settings), pictures, folder)
    return "\n".join([f"evaluated {place}: {path}", *summary(evaluation)])


def folder_for_figures(source: str | Path, output_dir: Path | None) -> Path:
    """Where a model's figures go: ``output_dir``, or else its own folder.

    Raises:
        ValueError: there is neither.
    """
    if output_dir is not None:
        return output_dir
    folder = Path(source)
    if folder.is_file():
        raise ValueError(f"{source} is no folder to write to: give one with --output-dir")
    if not folder.exists() and looks_like_hub_id(str(source)):
        raise ValueError(
            f"there is no folder {source}: check the path; or, if it is a model's id on the hub, "
            "give a folder for its figures with --output-dir"
        )
    return folder


def summary(evaluation: Evaluation) -> list[str]:
    """The headlines beside their baselines, a line each."""
    lines = []
    for title, figure in headlines(evaluation):
        rivals = ", ".join(f"{name} {value:.3f}" for name, value in figure.baselines.items())
        where = SPLITS[figure.split].title if figure.split in SPLITS else figure.split
        lines.append(f"  {title:28}  {figure.value:.3f}  {where} ({rivals})")
    return lines

"""`flava evaluate` on the embedded corpus: a model, the same model untrained, and baselines."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from flava.checkpoints.reading import looks_like_hub_id
from flava.checkpoints.recognise import build_model_from, read_checkpoint
from flava.core.machine import describe_machine
from flava.core.precision import Precision
from flava.core.progress import Progress
from flava.evaluation.descriptions import headlines
from flava.evaluation.embedded_data import CLASSES, TEMPLATES, EmbeddedCorpus, EmbeddedSplit
from flava.evaluation.embedded_features import EmbeddedFeatures, PixelComponents
from flava.evaluation.embedded_tasks import SPLITS, TASKS, Task
from flava.evaluation.examples import draw_examples
from flava.evaluation.linear_probe import STRENGTHS
from flava.evaluation.masked_tasks import TOKEN_PROBABILITY
from flava.evaluation.record import (
    Confusion,
    Evaluation,
    Figure,
    Pictures,
    TaskMetrics,
    save_evaluation,
)
from flava.inference.features import FeatureExtractor
from flava.models import EncoderModel, Flava, MaskedImageModel


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a model is evaluated on the tasks of `flava.evaluation.embedded_tasks`."""

    seed: int = 0
    """Draws the masks, the mismatched captions, the subsamples and the untrained model."""
    batch_size: int = 256
    """Samples that are computed at once; changes no figure."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""


DEFAULT = EvaluationConfig()

T = TypeVar("T", bound=EncoderModel)


def _measure(
    features: EmbeddedFeatures, seed: int, tasks: Sequence[Task]
) -> tuple[tuple[Figure, ...], tuple[Confusion, ...]]:
    """The figures of every task with their baselines, and the confusion matrices."""
    fresh, corpus = features.of_model(_untrained(features.model, seed)), features.corpus

    @cache
    def components(fitted_on: str) -> PixelComponents:
        return PixelComponents(corpus, fitted_on, features.model.config.image.width)

    figures: list[Figure] = []
    confusions: list[Confusion] = []
    with features.extractor.computing(), Progress() as progress:
        progress.step("", len(tasks))
        for task in tasks:
            progress.describe(f"{task.name}, {corpus.splits[task.split].title}")
            result = task.measure(features, task.split)
            baselines = {"untrained": task.measure(fresh, task.split)}
            if task.pca:
                baselines["pca"] = task.measure(components(task.pca), task.split)
            figures += _figures_of(task, result, baselines)
            confusions += [result.confusion] if result.confusion else []
            progress.advance(1)
    return tuple(figures), tuple(confusions)


def _figures_of(
    task: Task, result: TaskMetrics, baselines: Mapping[str, TaskMetrics]
) -> list[Figure]:
    """A figure for each metric, with the same metric of each baseline."""
    return [
        Figure(
            task=task.name,
            split=task.split,
            metric=metric,
            value=value.value,
            n=value.n,
            baselines=value.baselines
            | {name: other.metrics[metric].value for name, other in baselines.items()},
        )
        for metric, value in result.metrics.items()
    ]


def _untrained(model: T, seed: int) -> T:
    """The same geometry with initial weights; but the same codebook, which sets the targets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = type(model)(model.config)  # pyright: ignore[reportArgumentType]
    if isinstance(fresh, Flava | MaskedImageModel) and isinstance(model, Flava | MaskedImageModel):
        fresh.codebook.load_state_dict(model.codebook.state_dict())
    return fresh.to(next(model.parameters()).device).eval()


def _evaluate(
    model: EncoderModel,
    *,
    config: EvaluationConfig = DEFAULT,
    tasks: Sequence[Task] = TASKS,
    splits: Mapping[str, EmbeddedSplit] = SPLITS,
) -> tuple[Evaluation, Pictures]:
    """Every figure and example of a trained model, and the examples' pictures by name.

    The model is evaluated on the device that its weights are on. What needs a part that it
    lacks (`missing_parts`) is left out.

    Raises:
        FileNotFoundError: a split's shard is missing.
        ValueError: samples lack what a task needs, or the model's features are not finite.
    """
    started = time.perf_counter()
    extractor = FeatureExtractor(model, config.precision, config.batch_size)
    corpus = EmbeddedCorpus(splits, model.config, config.seed)
    tasks = [task for task in tasks if model.missing_parts.isdisjoint(task.needs)]
    features = EmbeddedFeatures(extractor, corpus)
    figures, confusions = _measure(features, config.seed, tasks)
    with extractor.computing():
        examples, pictures = draw_examples(features)
    evaluation = Evaluation(
        settings=_describe(model, config, splits),
        seconds=time.perf_counter() - started,
        figures=figures,
        confusions=confusions,
        examples=examples,
    )
    return evaluation, pictures


def _describe(
    model: EncoderModel, config: EvaluationConfig, splits: Mapping[str, EmbeddedSplit]
) -> dict[str, Any]:
    """What produced the figures, in plain types."""
    return {
        **asdict(config),
        "precision": config.precision.value,
        "splits": {s.name: {"title": s.title, "shards": list(s.shards)} for s in splits.values()},
        "classes": {each.names[0]: list(each.subgroups) for each in CLASSES},
        "templates": list(TEMPLATES),
        "linear_probe_strengths": list(STRENGTHS),
        "token_probability": TOKEN_PROBABILITY,
        "missing_parts": sorted(model.missing_parts),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "machine": describe_machine(),
    }


def evaluate_run(
    source: str | Path, config: EvaluationConfig = DEFAULT, *, output_dir: Path | None = None
) -> str:
    """Evaluate a model, write evaluation.json, and return the headlines as text.

    Args:
        source: A run's folder, whose best checkpoint is evaluated, or anything that
            `flava.checkpoints.recognise.read` takes.
        output_dir: Where evaluation.json goes; else into the source, which then is a folder.

    Raises:
        FileNotFoundError: there is no checkpoint, or a split's shard is missing.
        ValueError: the checkpoint is damaged, or neither FLAVA's nor CLIP's; or it is no folder
            and no ``output_dir`` is given; or as `_evaluate`.
    """
    folder = folder_for_figures(source, output_dir)
    stored = read_checkpoint(source)
    model = build_model_from(stored)
    if not isinstance(model, EncoderModel):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: only a FLAVA, a CLIP or an encoder of "
            f"images or texts can be evaluated. For the curves of a run: flava report {source}"
        )
    evaluation, pictures = _evaluate(model, config=config)
    # Where the weights are: in a run "best" stands for one of its steps.
    weights = stored.folder or Path(source)
    settings = {"checkpoint": weights.resolve().name, **evaluation.settings}
    folder.mkdir(parents=True, exist_ok=True)
    path = save_evaluation(replace(evaluation, settings=settings), pictures, folder)
    return "\n".join([f"evaluated {weights}: {path}", *_summary(evaluation)])


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


def _summary(evaluation: Evaluation) -> list[str]:
    """The headlines beside their baselines, a line each."""
    lines = []
    for title, figure in headlines(evaluation):
        baselines = ", ".join(f"{name} {value:.3f}" for name, value in figure.baselines.items())
        split = SPLITS[figure.split].title if figure.split in SPLITS else figure.split
        lines.append(f"  {title:28}  {figure.value:.3f}  {split} ({baselines})")
    return lines

"""Measures a model on a GLUE task: fine-tunes it with several seeds, evaluates it on the validation
splits, and predicts the test split for GLUE's server."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from torch import nn

from flava.core.randomness import subsample
from flava.data.labelled import LabelledRow
from flava.evaluation.record import Figure
from flava.suite.fine_tuning import FineTuned, FineTuningData, FineTuningRecipe, fine_tune_task
from flava.suite.language.glue import GlueRecipe, GlueSplit, GlueTask
from flava.suite.language.glue_files import files_of, missing, read_splits
from flava.suite.language.glue_metrics import best_constant, score, truth_of, write_submission
from flava.suite.task import Settings
from flava.training.optimizer import Decay, OptimizerConfig, ScheduleConfig

log = logging.getLogger(__name__)


def measure(task: GlueTask, model: nn.Module, settings: Settings) -> list[Figure]:
    """The medians of the task's metrics over its seeds, and the values of each seed.

    If the test split is there and all rows are used, the model of the seed that is best in
    validation predicts it; the predictions are written below the cache, in ``glue/MODEL``.

    Raises:
        FileNotFoundError: files are missing; all are named.
        ValueError: the data is wrong, or the model reads no text.
        Interrupted, FloatingPointError, OSError: as `fine_tune_task`.
    """
    folder = settings.data_root / task.folder
    if lines := missing(folder, task):
        raise FileNotFoundError(f"{task.row} is incomplete:\n  " + "\n  ".join(lines))
    tests = [split for split in task.test if files_of(folder, task, split).paths]
    splits = (task.train, *task.validation, *tests)
    read = read_splits(folder, task, splits)
    if dropped := sum(each.dropped for each in read):
        log.warning("%s: %s broken lines are skipped", task.row, f"{dropped:,}")
    rows = {
        split.name: subsample(each.rows, settings.few, settings.seed, split.name)
        for split, each in zip(splits, read, strict=True)
    }
    first = task.validation[0].name
    data = FineTuningData(
        task=task.name,
        kind="text",
        classes=task.classes,
        train=rows["train"],
        validation=rows[first],
        score=partial(score, task),
    )
    recipe = _recipe_for(task.recipe, len(data.train))
    count = 1 if settings.few is not None else task.recipe.seeds
    seeds = range(settings.seed, settings.seed + count)
    metrics = [
        _validation_metrics(fine_tune_task(model, data, recipe, settings, seed), task, rows)
        for seed in seeds
    ]
    if tests and settings.few is None:
        best = max(range(count), key=lambda i: next(iter(metrics[i][first].values())))
        tuned = fine_tune_task(model, data, recipe, settings, seeds[best])
        _predict_tests(tuned, task, tests, rows, settings.cache)
    return [
        figure
        for split in task.validation
        for figure in _figures(
            task, split, rows[split.name], [each[split.name] for each in metrics], seeds
        )
    ]


def _recipe_for(recipe: GlueRecipe, train_rows: int) -> FineTuningRecipe:
    """RoBERTa's recipe for a number of training rows: fewer rows have fewer steps in proportion.

    AdamW's betas, epsilon and weight decay, the linear decay and no clipping of gradients are those
    of README.glue.md for all tasks. Its steps are ten epochs.
    """
    share = min(1.0, train_rows / recipe.train_rows)
    return FineTuningRecipe(
        max_steps=math.ceil(share * recipe.max_steps),
        batch_size=recipe.batch_size,
        optimizer=OptimizerConfig(
            lr=recipe.lr,
            beta1=0.9,
            beta2=0.98,
            eps=1e-6,
            weight_decay=0.1,
            max_grad_norm=math.inf,
        ),
        schedule=ScheduleConfig(
            warmup_steps=round(share * recipe.warmup_steps), decay=Decay.LINEAR
        ),
        hidden_width=None,
        workers=0,
    )


def _validation_metrics(
    tuned: FineTuned, task: GlueTask, rows: Mapping[str, Sequence[LabelledRow]]
) -> dict[str, dict[str, float]]:
    """The metrics of each validation split."""
    return {
        split.name: score(
            task,
            tuned.outputs(rows[split.name], f"{task.row}, {split.name}"),
            rows[split.name],
        )
        for split in task.validation
    }


def _predict_tests(
    tuned: FineTuned,
    task: GlueTask,
    tests: Sequence[GlueSplit],
    rows: Mapping[str, Sequence[LabelledRow]],
    cache: Path,
) -> None:
    """Write the files of predictions for GLUE's server."""
    for split in tests:
        outputs = tuned.outputs(rows[split.name], f"{task.row}, {split.name}")
        path = cache / "glue" / tuned.run.start / split.submission
        write_submission(path, task, rows[split.name], outputs)
        log.info("%s: predictions for GLUE's server: %s", task.row, path)


def _figures(
    task: GlueTask,
    split: GlueSplit,
    rows: Sequence[LabelledRow],
    metrics: Sequence[Mapping[str, float]],
    seeds: Sequence[int],
) -> list[Figure]:
    """The median of each metric, followed by its value for each seed.

    Args:
        metrics: Those of each seed, on this split.

    In all splits but the first, a metric's name begins with the split's, so that no other figure
    of a task is taken for the one that fills its row of Table C.1.
    """
    truth = truth_of(task, rows)
    prefix = split.name.removeprefix("validation").lstrip("_")
    found: list[Figure] = []
    for metric in task.metrics:
        values = [each[metric] for each in metrics]
        baseline = "majority" if metric == "accuracy" else "constant"
        figure = Figure(
            task=task.name,
            split=split.name,
            metric=f"{prefix}_{metric}" if prefix else metric,
            value=median(values),
            n=len(rows),
            baselines={baseline: best_constant(metric, task, truth)},
        )
        found.append(figure)
        if len(seeds) > 1:
            found += [
                replace(figure, metric=f"{figure.metric}_seed_{seed}", value=value, baselines={})
                for seed, value in zip(seeds, values, strict=True)
            ]
    return found

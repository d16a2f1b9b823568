"""One task of GLUE: fine-tuned from several seeds, measured where its labels are public."""

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
from flava.finetuning.fine_tuner import FineTuned, TuningConfig, TuningSamples, fine_tune
from flava.suite.language.glue import Glue, GlueSplit, Recipe
from flava.suite.language.glue_metrics import best_constant, score, truth_of, write_submission
from flava.suite.language.reading import files_of, missing, read_splits
from flava.suite.task import Settings
from flava.training.optimizer import Decay, OptimizerConfig, ScheduleConfig

log = logging.getLogger(__name__)

Scored = dict[str, float]


def measure(task: Glue, model: nn.Module, settings: Settings) -> list[Figure]:
    """The medians of the task's metrics over its seeds, and the values of each seed.

    The test split, if it is there and all rows are looked at, is predicted by the seed that is best
    in validation, and written below the cache, in ``glue/MODEL``.

    Raises:
        FileNotFoundError: files are missing; all are named.
        ValueError: the data does not hold, or the model reads no text.
        Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """
    folder = settings.data_root / task.folder
    if gone := missing(folder, task):
        raise FileNotFoundError(f"{task.row} is not whole:\n  " + "\n  ".join(gone))
    tests = [split for split in task.test if files_of(folder, task, split).paths]
    splits = (task.train, *task.validation, *tests)
    read = read_splits(folder, task, splits)
    if dropped := sum(each.dropped for each in read):
        log.warning("%s: %s broken lines are passed over", task.row, f"{dropped:,}")
    rows = {
        split.name: subsample(each.rows, settings.few, settings.seed, split.name)
        for split, each in zip(splits, read, strict=True)
    }
    first = task.validation[0].name
    samples = TuningSamples(
        task=task.name,
        kind="text",
        classes=task.classes,
        train=rows["train"],
        validation=rows[first],
        score=partial(score, task),
    )
    config = tuning(task.recipe, len(samples.train))
    count = 1 if settings.few is not None else task.recipe.seeds
    seeds = range(settings.seed, settings.seed + count)
    scored = [
        of_seed(fine_tune(model, samples, config, settings, seed), task, rows) for seed in seeds
    ]
    if tests and settings.few is None:
        best = max(range(count), key=lambda i: next(iter(scored[i][first].values())))
        tuned = fine_tune(model, samples, config, settings, seeds[best])
        predict_tests(tuned, task, tests, rows, settings.cache)
    return [
        figure
        for split in task.validation
        for figure in figures(
            task, split, rows[split.name], [each[split.name] for each in scored], seeds
        )
    ]


def tuning(recipe: Recipe, rows: int) -> TuningConfig:
    """RoBERTa's recipe for so many training rows: of a part of them, the same part of the updates.

    AdamW's betas, epsilon and weight decay, the linear decay and no clipping of gradients are
    README.glue.md's for all tasks. It counts the updates of ten epochs, and looks at the validation
    split after each.
    """
    share = min(1.0, rows / recipe.rows)
    return TuningConfig(
        max_steps=math.ceil(share * recipe.updates),
        batch_size=recipe.batch_size,
        optimizer=OptimizerConfig(
            lr=recipe.lr,
            beta1=0.9,
            beta2=0.98,
            eps=1e-6,
            weight_decay=0.1,
            max_grad_norm=math.inf,
        ),
        schedule=ScheduleConfig(warmup_steps=round(share * recipe.warmup), decay=Decay.LINEAR),
        hidden_width=None,
        looks=10,
        workers=0,
    )


def of_seed(
    tuned: FineTuned, task: Glue, rows: Mapping[str, Sequence[LabelledRow]]
) -> dict[str, Scored]:
    """The metrics of each validation split."""
    return {
        split.name: score(
            task,
            tuned.outputs(rows[split.name], f"{task.row}, {split.name}"),
            rows[split.name],
        )
        for split in task.validation
    }


def predict_tests(
    tuned: FineTuned,
    task: Glue,
    tests: Sequence[GlueSplit],
    rows: Mapping[str, Sequence[LabelledRow]],
    cache: Path,
) -> None:
    """Write the files for GLUE's server."""
    for split in tests:
        outputs = tuned.outputs(rows[split.name], f"{task.row}, {split.name}")
        path = cache / "glue" / tuned.run.start / split.submission
        write_submission(path, task, rows[split.name], outputs)
        log.info("%s: predictions for GLUE's server: %s", task.row, path)


def figures(
    task: Glue,
    split: GlueSplit,
    rows: Sequence[LabelledRow],
    scored: Sequence[Scored],
    seeds: Sequence[int],
) -> list[Figure]:
    """The median of each metric, then what each seed had.

    In all splits but the first, a metric's name has the split's before it: no other figure of a
    task shall be taken for the one that fills its row.
    """
    truth = truth_of(task, rows)
    prefix = split.name.removeprefix("validation").lstrip("_")
    found: list[Figure] = []
    for metric in task.metrics:
        values = [each[metric] for each in scored]
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

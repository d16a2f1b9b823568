"""Runs the tasks of the suite on one model. If a task fails, the others are still measured."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from flava.checkpoints.digests import weights_digest
from flava.checkpoints.recognise import load_pretrained
from flava.core.machine import describe_machine
from flava.core.progress import duration
from flava.evaluation.record import Figure
from flava.models import EncoderModel
from flava.suite.registry import missing_data
from flava.suite.results_file import (
    FILE,
    SuiteResult,
    add_results,
    read_results,
    settings_of_results,
)
from flava.suite.task import Settings, SuiteTask
from flava.training.launch import Interrupted

PACKAGES = (
    "flava",
    "numpy",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "tokenizers",
    "torch",
    "torchvision",
)
"""Packages whose versions may change a figure."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A model, and the settings that it is measured with."""

    source: str
    """The model, as the user named it."""
    model: nn.Module
    weights: str
    """SHA-256 of the model's weights."""
    settings: Settings

    def made(self, result: SuiteResult) -> bool:
        """Whether a result is of the same weights and settings."""
        same_weights = result.weights == self.weights
        return same_weights and result.settings == settings_of_results(self.settings)

    def results(self, task: SuiteTask) -> list[SuiteResult]:
        """Measure a task.

        Raises:
            ValueError: a figure is not finite, or a row of Table C.1 has none; or as the task.
            OSError: as the task.
        """
        start = time.monotonic()
        figures = task.measure(self.model, self.settings)
        rows = _rows_filled(task, figures)
        common: dict[str, Any] = {
            "model": self.source,
            "weights": self.weights,
            "settings": settings_of_results(self.settings),
            "seconds": round(time.monotonic() - start, 3),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe_machine(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        return [
            SuiteResult(**asdict(figure), row=rows.get(number), **common)
            for number, figure in enumerate(figures)
        ]


def evaluate_suite(
    source: str | Path,
    tasks: Sequence[SuiteTask],
    settings: Settings,
    output: Path,
    *,
    device: torch.device | str = "cpu",
) -> str:
    """Measure a model on some tasks, and add the results to OUTPUT/results.jsonl.

    A task whose results of the same weights and settings are there is skipped. One that fails is
    reported, and the others are measured.

    Args:
        source: A model, as for `flava.checkpoints.recognise.load_pretrained`.

    Returns:
        A summary to be printed.

    Raises:
        FileNotFoundError: there is no such model or data root.
        ValueError: the model cannot be evaluated, or a setting is out of range; or, after all
            tasks, some have no results: they are listed with their reasons.
    """
    _check(settings)
    path = output / FILE
    earlier = read_results(path) if path.exists() else []
    missing = {
        task.name: lines for task in tasks if (lines := missing_data(task, settings.data_root))
    }
    if len(missing) == len(tasks):
        raise ValueError(_failure_message(missing, len(tasks), path))
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for name in missing:
        console.print(f"{name}: its data is missing, the other tasks are measured")
    model = _load_model(source)
    measurement = Measurement(
        source=str(source), model=model, weights=weights_digest(model), settings=settings
    )
    model.to(device)
    done = {result.task for result in earlier if measurement.made(result)}
    failures: dict[str, list[str]] = {}
    for number, task in enumerate(tasks, 1):
        console.print(f"[{number}/{len(tasks)}] {task.name}")
        if task.name in done:
            console.print("  is in the results already")
        elif task.name in missing:
            failures[task.name] = missing[task.name]
            console.print("  its data is missing")
        elif reason := _measure_and_save(measurement, task, path, console):
            failures[task.name] = reason.splitlines()
            console.print(f"  failed: {reason}")
    if failures:
        raise ValueError(_failure_message(failures, len(tasks), path))
    return f"{len(tasks)} tasks measured: {path}. For the table: flava report {path}"


def _measure_and_save(
    measurement: Measurement, task: SuiteTask, path: Path, console: Console
) -> str | None:
    """Measure a task and add its results to a file; returns why it failed, or None."""
    try:
        results = measurement.results(task)
        add_results(path, results)
    except Interrupted:
        raise
    except (ValueError, OSError) as error:
        return str(error)
    except Exception as error:  # a bug in one task must not prevent the others
        LOG.exception("%s failed", task.name)
        return f"{type(error).__name__}: {error}"
    for line in _summary(results):
        console.print(f"  {line}")
    return None


def _check(settings: Settings) -> None:
    """Raises FileNotFoundError or ValueError: a setting is wrong."""
    if not settings.data_root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {settings.data_root}: give the one that holds a folder for each "
            "data set with --data-root"
        )
    mistakes = [
        f"--{name.replace('_', '-')} is {value}: use at least 1"
        for name, value in (("few", settings.few), ("batch_size", settings.batch_size))
        if value is not None and value < 1
    ]
    if mistakes:
        raise ValueError("\n  ".join(mistakes))


def _load_model(source: str | Path) -> EncoderModel:
    """A model that can be evaluated.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: it is of another kind.
    """
    model = load_pretrained(source)
    if not isinstance(model, EncoderModel):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: only a FLAVA, a CLIP or an encoder of "
            "images or texts can be evaluated"
        )
    return model


def _rows_filled(task: SuiteTask, figures: Sequence[Figure]) -> dict[int, str]:
    """Index of a figure -> the row of Table C.1 that it fills: the first of the row's metric.

    Raises:
        ValueError: figures are not finite, or rows have none; all of them are listed.
    """
    mistakes = [
        f"{figure.name} is {figure.value}" for figure in figures if not math.isfinite(figure.value)
    ]
    filled: dict[int, str] = {}
    for row, metric in task.rows:
        number = next((n for n, figure in enumerate(figures) if figure.metric == metric), None)
        if number is None:
            mistakes.append(f"there is no {metric} for the row {row}")
        else:
            filled[number] = row
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return filled


def _summary(results: Sequence[SuiteResult]) -> list[str]:
    """A line for each figure, with its baselines."""
    lines = []
    for each in results:
        rivals = "".join(f"; {name} {value:.3f}" for name, value in each.baselines.items())
        lines.append(
            f"{each.metric} {each.value:.4f} on {each.split} (n = {each.n:,}{rivals}), "
            f"{duration(each.seconds)}"
        )
    return lines


def _failure_message(failures: dict[str, list[str]], tasks: int, path: Path) -> str:
    """The error for tasks without results: their number among ``tasks``, and each one's reason."""
    listed = "".join(f"\n  {name}: " + "\n    ".join(lines) for name, lines in failures.items())
    rest = f"; those of the others are in {path}" if len(failures) < tasks else ""
    return (
        f"{len(failures)} of {tasks} tasks have no figures{rest}. `flava evaluate --dry-run` tells "
        f"where data can be had, and the same command goes on with what is left:{listed}"
    )

"""The suite on one model, task by task: what is measured stays, whatever fails after it."""

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
from flava.checkpoints.load import load_pretrained
from flava.core.machine import describe_machine
from flava.core.progress import duration
from flava.evaluation.record import Figure
from flava.inference.features import EncoderModel
from flava.suite.registry import absent
from flava.suite.results import FILE, SuiteResult, add_results, identifying, read_results
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
"""Whose versions may change a figure."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A model with the settings it is measured by."""

    source: str
    model: nn.Module
    weights: str
    settings: Settings

    def made(self, result: SuiteResult) -> bool:
        """Whether this very measurement gave the result."""
        same_model = result.weights == self.weights
        return same_model and result.settings == identifying(self.settings)

    def results(self, task: SuiteTask) -> list[SuiteResult]:
        """The task's figures.

        Raises:
            ValueError: one is not finite, or a row of Table C.1 is left empty; or as the task.
            OSError: as the task.
        """
        begun = time.monotonic()
        figures = task.measure(self.model, self.settings)
        rows = rows_filled(task, figures)
        common: dict[str, Any] = {
            "model": self.source,
            "weights": self.weights,
            "settings": identifying(self.settings),
            "seconds": round(time.monotonic() - begun, 3),
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
    """Measure a model on some tasks, add their figures to OUTPUT/results.jsonl, and say so.

    A task whose figures of the same weights and settings are there is passed over. One that fails
    is reported; the others go on.

    Args:
        source: Anything that `flava.checkpoints.load.read` takes.

    Raises:
        FileNotFoundError: there is no such model or data root.
        ValueError: the model or a setting does not hold; or, when all tasks had their turn, some
            have no figures: each is listed with its reason.
    """
    check(settings)
    path = output / FILE
    earlier = read_results(path) if path.exists() else []
    lacking = {task.name: lines for task in tasks if (lines := absent(task, settings.data_root))}
    if len(lacking) == len(tasks):
        raise ValueError(failed(lacking, len(tasks), path))
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for name in lacking:
        console.print(f"{name}: its data is missing, the others go on")
    model = own_model(source)
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
        elif task.name in lacking:
            failures[task.name] = lacking[task.name]
            console.print("  its data is missing")
        else:
            failures |= attempt(measurement, task, path, console)
    if failures:
        raise ValueError(failed(failures, len(tasks), path))
    return f"{len(tasks)} tasks measured: {path}. For the table: flava report {path}"


def attempt(
    measurement: Measurement, task: SuiteTask, path: Path, console: Console
) -> dict[str, list[str]]:
    """Measure and write one task; what went wrong, by the task's name, if anything did."""
    try:
        results = measurement.results(task)
        add_results(path, results)
    except Interrupted:
        raise
    except (ValueError, OSError) as error:
        reason = str(error)
    except Exception as error:  # a mistake in one task's code must not cost the night's others
        LOG.exception("%s failed", task.name)
        reason = f"{type(error).__name__}: {error}"
    else:
        for line in summary(results):
            console.print(f"  {line}")
        return {}
    console.print(f"  failed: {reason}")
    return {task.name: reason.splitlines()}


def check(settings: Settings) -> None:
    """Raises FileNotFoundError or ValueError: what is wrong with the settings."""
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


def own_model(source: str | Path) -> EncoderModel:
    """Raises FileNotFoundError or ValueError: there is no model, or one of another kind."""
    model = load_pretrained(source)
    if not isinstance(model, EncoderModel):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: only a FLAVA, a CLIP or an encoder of "
            "images or texts can be evaluated"
        )
    return model


def rows_filled(task: SuiteTask, figures: Sequence[Figure]) -> dict[int, str]:
    """Number of a figure -> the row of Table C.1 that it fills: the first of the row's metric.

    Raises:
        ValueError: a figure is not finite, or a row has none; all of them are listed.
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


def summary(results: Sequence[SuiteResult]) -> list[str]:
    """A line for each figure, beside its baselines."""
    lines = []
    for each in results:
        rivals = "".join(f"; {name} {value:.3f}" for name, value in each.baselines.items())
        lines.append(
            f"{each.metric} {each.value:.4f} on {each.split} (n = {each.n:,}{rivals}), "
            f"{duration(each.seconds)}"
        )
    return lines


def failed(failures: dict[str, list[str]], of: int, path: Path) -> str:
    """What the command ends with when tasks have no figures."""
    listed = "".join(f"\n  {name}: " + "\n    ".join(lines) for name, lines in failures.items())
    rest = f"; those of the others are in {path}" if len(failures) < of else ""
    return (
        f"{len(failures)} of {of} tasks have no figures{rest}. `flava evaluate --dry-run` tells "
        f"where data is to be had, and the same command goes on with what is left:{listed}"
    )

"""Tasks that need no data set: their figures are told beforehand, and their calls counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flava.evaluation.record import Figure
from flava.suite.results_file import SuiteResult
from flava.suite.task import Group, Settings, SuiteTask


def figure(task: str, value: float, metric: str = "accuracy", split: str = "test") -> Figure:
    return Figure(
        task=task, split=split, metric=metric, value=value, n=200, baselines={"majority": 0.1}
    )


def made_task(
    name: str,
    *figures: Figure,
    rows: tuple[tuple[str, str], ...] = (),
    group: Group = "vision",
    measure: Callable[[Any, Settings], list[Figure]] | None = None,
    calls: list[str] | None = None,
) -> SuiteTask:
    """A task whose folder must hold ``data.txt``."""

    def told(model: Any, settings: Settings) -> list[Figure]:
        if calls is not None:
            calls.append(name)
        return measure(model, settings) if measure else list(figures)

    def missing(folder: Path) -> list[str]:
        return [] if (folder / "data.txt").is_file() else ["data.txt"]

    return SuiteTask(
        name=name,
        group=group,
        rows=rows,
        folder=f"{name}-data",
        source=f"https://example.org/{name}",
        licence=f"licence of {name}",
        missing=missing,
        measure=told,
    )


def data_for(root: Path, *tasks: SuiteTask) -> Path:
    """A data root that has what these tasks need."""
    for task in tasks:
        folder = root / task.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data.txt").write_text("here")
    root.mkdir(exist_ok=True)
    return root


def result(row: str | None, value: float, **changes: Any) -> SuiteResult:
    """A line of results.jsonl."""
    fields: dict[str, Any] = {
        "task": (row or "other").lower(),
        "split": "test",
        "metric": "accuracy",
        "value": value,
        "n": 200,
        "baselines": {"majority": 0.1},
        "row": row,
        "model": "runs/one",
        "weights": "a" * 64,
        "settings": {"data_root": "/data", "few": None, "seed": 0, "precision": "bf16"},
        "seconds": 1.5,
        "date": "2026-11-24T12:00:00+00:00",
        "machine": {"processor": "some", "cores": 2},
        "versions": {"torch": "2.6"},
    }
    return SuiteResult(**(fields | changes))

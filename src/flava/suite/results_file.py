"""results.jsonl: one line for each figure of the suite, with everything that it depends on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flava.core.files import explain_errors, write_atomically, write_error
from flava.evaluation.record import Figure
from flava.suite.task import Settings

FILE = "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class SuiteResult(Figure):
    """A figure with everything that it depends on: a line of results.jsonl."""

    # JSON has no NaN: by default pydantic writes null, which it would not read again.
    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    row: str | None
    """The row of Table C.1 that it fills, if any."""
    model: str
    """The model, as the user named it."""
    weights: str
    """SHA-256 of the model's weights, whatever file or device they were on."""
    settings: dict[str, Any]
    """See `settings_of_results`."""
    seconds: float
    """Time that its task took, for all of the task's figures."""
    date: str
    """Time of the measurement: ISO 8601, UTC."""
    machine: dict[str, str | int]
    versions: dict[str, str]
    """Package -> version."""


LINE = TypeAdapter(SuiteResult)


def settings_of_results(settings: Settings) -> dict[str, Any]:
    """The settings that figures depend on, as JSON values: all but ``cache``."""
    fields = asdict(settings) | {
        "data_root": str(settings.data_root.resolve()),
        "precision": settings.precision.value,
    }
    del fields["cache"]
    return fields


def read_results(path: Path) -> list[SuiteResult]:
    """The results of a file, in order; a last line that was cut off is skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: lines are damaged, or of another version; all are listed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `flava evaluate MODEL --tasks ... --output-dir {path.parent}` "
            "writes it"
        )
    lines = path.read_bytes().split(b"\n")
    results: list[SuiteResult] = []
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            results.append(LINE.validate_json(line))
        except ValidationError as error:
            if number < len(lines):  # the last one has no line break: it was cut off
                mistakes.append(f"line {number}:{explain_errors(error)}")
    if mistakes:
        raise ValueError(
            f"{path} holds lines that are no results of the suite. Delete them, and evaluate their "
            "tasks again:\n" + "\n".join(mistakes)
        )
    return results


def add_results(path: Path, new: Sequence[SuiteResult]) -> None:
    """Add a task's results to a file: all or none of them, even if the process is killed.

    Raises:
        ValueError: as `read_results`.
        OSError: they could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    results = [*(read_results(path) if path.exists() else []), *new]
    write_atomically(path, b"".join(LINE.dump_json(each) + b"\n" for each in results))

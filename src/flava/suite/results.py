"""Figures of the suite on disk: JSON lines, each with all that produced it."""

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
    """A figure with all that produced it: a line of results.jsonl."""

    # JSON has no NaN: by default pydantic writes null, which it would not read again.
    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    row: str | None
    """The row of Table C.1 that it fills, if any."""
    model: str
    """Where the model came from, as the user named it."""
    weights: str
    """The SHA-256 of its weights, whatever file or device they were on."""
    settings: dict[str, Any]
    """As `identifying` gives them."""
    seconds: float
    """That its task took, all figures together."""
    date: str
    """When it was measured: ISO 8601, UTC."""
    machine: dict[str, str | int]
    versions: dict[str, str]
    """Package -> version."""


LINE = TypeAdapter(SuiteResult)


def identifying(settings: Settings) -> dict[str, Any]:
    """What figures depend on, as JSON holds it: all but the place where features are kept."""
    kept = asdict(settings) | {
        "data_root": str(settings.data_root.resolve()),
        "precision": settings.precision.value,
    }
    del kept["cache"]
    return kept


def read_results(path: Path) -> list[SuiteResult]:
    """The results of a file, in order; a last line that was cut off is passed over.

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
            if number < len(lines):  # else there is no line break behind it: it was cut off
                mistakes.append(f"line {number}:{explain_errors(error)}")
    if mistakes:
        raise ValueError(
            f"{path} holds lines that are no results of the suite. Delete them, and evaluate their "
            "tasks again:\n" + "\n".join(mistakes)
        )
    return results


def add_results(path: Path, new: Sequence[SuiteResult]) -> None:
    """Add a task's results to a file: all of them or none, whatever happens.

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

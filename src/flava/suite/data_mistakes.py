"""Collects everything that is wrong with a data set into one error."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SHOWN = 10
"""Names that are written out for each kind of mistake; the others are counted."""

LINES_SHOWN = 20
"""Lines that `shortened` leaves; further ones are only counted."""


def raise_mistakes(source: Path | str, lines: Sequence[str], remedy: str) -> None:
    """Raise one error of all lines; do nothing if there are none.

    Args:
        source: The file, folder or data set that the mistakes are in.
        lines: A mistake each, or all mistakes of one kind.
        remedy: What to do about them, in a sentence.

    Raises:
        ValueError: there are some.
    """
    if lines:
        raise ValueError(f"{source} cannot be used:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def raise_mistakes_by_kind(
    source: Path | str, names: Mapping[str, Iterable[object]], remedy: str
) -> None:
    """Raise one error with a line for each kind of mistake that something has.

    Args:
        source: The file, folder or data set that the mistakes are in.
        names: A kind of mistake -> the names of all that have it. The first names are written out.
        remedy: What to do about them, in a sentence.

    Raises:
        ValueError: something has a mistake.
    """
    lines = []
    for kind, each in names.items():
        if found := [str(name) for name in each]:
            more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
            lines.append(f"{kind}: {', '.join(found[:SHOWN])}{more}")
    raise_mistakes(source, lines, remedy)


def duplicates(ids: Iterable[Hashable]) -> list[Hashable]:
    """The ids that occur more than once."""
    return [each for each, count in Counter(ids).items() if count > 1]


def missing_names(paths: Iterable[Path]) -> list[str]:
    """The names of the files that do not exist, each once."""
    return [path.name for path in dict.fromkeys(paths) if not path.is_file()]


def read_all(*reads: Callable[[], T]) -> list[T]:
    """The result of each call.

    Raises:
        FileNotFoundError: all calls that failed lack a file.
        ValueError: some calls failed, for this or another reason; all errors are in one.
    """
    results: list[T] = []
    errors: list[Exception] = []
    for read in reads:
        try:
            results.append(read())
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
    if errors:
        missing = all(isinstance(each, FileNotFoundError) for each in errors)
        kind = FileNotFoundError if missing else ValueError
        raise kind("\n".join(str(each) for each in errors)) from errors[0]
    return results


def shortened(lines: list[str]) -> list[str]:
    """The first lines, and the number of the others in a line."""
    more = len(lines) - LINES_SHOWN
    return lines if more < 1 else [*lines[:LINES_SHOWN], f"and {more} more of these"]

"""Collecting everything that is wrong with a data set into one error."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SHOWN = 10
"""Names that are written out for each kind of mistake; the others are counted."""


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


def by_kind(names: Mapping[str, Iterable[object]]) -> list[str]:
    """A line for each kind of mistake, with the first names of what has it and the number of the
    others; none for a kind that nothing has."""
    return [f"{kind}: {listed(found)}" for kind, each in names.items() if (found := list(each))]


def listed(names: Sequence[object]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(str, names[:SHOWN]))
    more = len(names) - SHOWN
    return shown if more <= 0 else f"{shown} and {more:,} more"


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

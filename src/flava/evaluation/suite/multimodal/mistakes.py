"""All that is wrong with a data set, in one error."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")

SHOWN = 10
"""Names that are written out of each kind of mistake; the others are counted."""


def refuse(source: Path, found: Mapping[str, Iterable[object]], remedy: str) -> None:
    """Nothing if there are no mistakes.

    Args:
        source: The file or folder that they are in.
        found: A kind of mistake -> the names of all that have it.
        remedy: What to do about it.

    Raises:
        ValueError: there are some: a line for each kind, with their number and the first names.
    """
    lines = [f"{what}: {listed(names)}" for what, each in found.items() if (names := list(each))]
    if lines:
        raise ValueError(f"{source} cannot be used:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def read_all(*reads: Callable[[], Item]) -> list[Item]:
    """What each of them returns.

    Raises:
        FileNotFoundError: of some of them there is no file, and nothing else is wrong.
        ValueError: some of them fail, with all their errors in one.
    """
    found: list[Item] = []
    errors: list[Exception] = []
    for read in reads:
        try:
            found.append(read())
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
    if errors:
        missing = all(isinstance(each, FileNotFoundError) for each in errors)
        kind = FileNotFoundError if missing else ValueError
        raise kind("\n".join(str(each) for each in errors)) from errors[0]
    return found


def listed(names: Sequence[object]) -> str:
    """The first of them, and how many more there are."""
    shown = ", ".join(map(str, names[:SHOWN]))
    more = len(names) - SHOWN
    return shown if more <= 0 else f"{shown} and {more:,} more"


def repeated(ids: Iterable[Hashable]) -> list[Hashable]:
    """Those that stand there more than once."""
    return [each for each, count in Counter(ids).items() if count > 1]


def absent(paths: Iterable[Path]) -> list[str]:
    """The names of the files that are not there, each once."""
    return [path.name for path in dict.fromkeys(paths) if not path.is_file()]


def missing_of(paths: Iterable[Path]) -> list[str]:
    """A line for each file or folder that is not there."""
    return [f"{path} is missing" for path in paths if not path.exists()]

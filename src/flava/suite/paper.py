"""The paper's own figures, Tables C.1 and D.1, and the averages of a column.

Both stand in the supplement of Singh et al., "FLAVA: A Foundational Language And Vision Alignment
Model" (CVPR 2022, arXiv 2112.04482), and in ``tables/`` beside this file, digit for digit. A column
goes by the name of its recipe; "clip-400m" is OpenAI's released CLIP ViT-B/16.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from flava.suite.task import Group

TABLES = Path(__file__).parent / "tables"

GROUPS: tuple[Group, ...] = get_args(Group)

AVERAGE = "average"
"""The group of the lines of Table C.1 that are no task's."""


@dataclass(frozen=True)
class PaperRow:
    """A row of Table C.1: one of its 41 figures."""

    group: Group
    task: str
    """As the paper calls it: "Food101", "Flickr30K TR R@1". No two rows share it."""


@cache
def rows() -> tuple[PaperRow, ...]:
    """The 41 rows, in the table's order within their groups: 22 of vision, 8 of NLP, 11 of both."""
    lines = table("table_c1.csv")
    return tuple(
        PaperRow(group, line["task"]) for group in GROUPS for line in lines_of(group, lines)
    )


@cache
def columns() -> tuple[str, ...]:
    """The 14 columns, in the table's order: "mim", "mlm", "flava-c-local", ..."""
    return tuple(name for name in table("table_c1.csv")[0] if name not in ("group", "task"))


def value(row: str, column: str) -> float | None:
    """A task's figure in percent; None where the paper has none.

    Raises:
        ValueError: there is no such row or column; all there are are listed.
    """
    known = [each.task for each in rows()]
    if row not in known:
        raise ValueError(f"Table C.1 has no row {row!r}. Its rows are: {', '.join(known)}")
    return _number(row, column)


def values(column: str) -> dict[str, float]:
    """Row -> its figure in percent, of those that the paper has.

    Raises:
        ValueError: there is no such column.
    """
    found = ((row.task, value(row.task, column)) for row in rows())
    return {row: figure for row, figure in found if figure is not None}


def printed_average(name: str, column: str) -> float | None:
    """An average as the paper prints it: "Vision Avg.", "NLP Avg.", "Multimodal Avg.", "Macro Avg."

    Three of the NLP averages are not the mean of their rows, and the macro averages follow them
    (docs/decisions/0021-suite-results.md): `averages` computes them anew.

    Raises:
        ValueError: there is no such column.
    """
    return _number(name, column)


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """A file of ``tables/``, a dictionary a line."""
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def lines_of(group: str, lines: tuple[dict[str, str], ...]) -> list[dict[str, str]]:
    return [line for line in lines if line["group"] == group]


def _number(row: str, column: str) -> float | None:
    if column not in columns():
        raise ValueError(
            f"the paper has no column {column!r}. Its columns are: {', '.join(columns())}"
        )
    line = next(line for line in table("table_c1.csv") if line["task"] == row)
    return float(line[column]) if line[column] else None


GROUP_NAMES = {"vision": "Vision", "nlp": "NLP", "multimodal": "Multimodal"}

MACROS = {
    "Macro average of vision and NLP (as in Table C.1)": ("vision", "nlp"),
    "Macro average of all three groups (as in Table D.1)": GROUPS,
}
"""Label -> the groups it averages: the paper's two tables mean different things by "Macro Avg."."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean, with how much of it is there."""

    label: str
    value: float | None
    """None where nothing is there to average, or where a macro average lacks a group."""
    n: int
    """Rows that it averages over, directly or by their groups."""
    of: int
    """Rows that it would average over in a full column."""

    @property
    def whole(self) -> bool:
        return self.n == self.of


def averages(values: Mapping[str, float]) -> tuple[Average, ...]:
    """The three groups' averages, then the two macro averages, which weigh their groups alike.

    Args:
        values: Row of Table C.1 -> figure, of those that are there; other names count for nothing.
    """
    groups = {group: group_average(group, values) for group in GROUPS}
    return (*groups.values(), *(macro(label, groups) for label in MACROS))


def group_average(group: str, values: Mapping[str, float]) -> Average:
    """The mean of a group's rows, each counting alike."""
    names = [row.task for row in rows() if row.group == group]
    found = [values[name] for name in names if name in values]
    return Average(
        label=f"{GROUP_NAMES[group]} average",
        value=sum(found) / len(found) if found else None,
        n=len(found),
        of=len(names),
    )


def macro(label: str, groups: Mapping[str, Average]) -> Average:
    """The mean of some groups' averages; none unless each of them is there."""
    parts = [groups[group] for group in MACROS[label]]
    known = [part.value for part in parts if part.value is not None]
    return Average(
        label=label,
        value=sum(known) / len(parts) if len(known) == len(parts) else None,
        n=sum(part.n for part in parts),
        of=sum(part.of for part in parts),
    )

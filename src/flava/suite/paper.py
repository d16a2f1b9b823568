"""The paper's own figures, Tables C.1 and D.1, and averages of a column's figures.

Both tables are in the supplement of Singh et al., "FLAVA: A Foundational Language And Vision
Alignment Model" (CVPR 2022, arXiv 2112.04482). The files in ``tables/`` hold them digit for digit.
A column has the name of its recipe; "clip-400m" is OpenAI's released CLIP ViT-B/16.
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


@dataclass(frozen=True)
class PaperRow:
    """A row of Table C.1: one of its 41 figures."""

    group: Group
    task: str
    """As the paper calls it: "Food101", "Flickr30K TR R@1". No two rows share it."""


@cache
def rows() -> tuple[PaperRow, ...]:
    """The 41 rows in the table's order: 22 of vision, 8 of NLP and 11 multimodal ones."""
    return tuple(
        PaperRow(group, line["task"])
        for group in GROUPS
        for line in _table("table_c1.csv")
        if line["group"] == group
    )


@cache
def columns() -> tuple[str, ...]:
    """The 14 columns, in the table's order: "mim", "mlm", "flava-c-local", ..."""
    return tuple(name for name in _table("table_c1.csv")[0] if name not in ("group", "task"))


def _value(row: str, column: str) -> float | None:
    """A task's figure in percent; None where the paper has none.

    Raises:
        ValueError: there is no such row or column. The message lists those that exist.
    """
    known = [each.task for each in rows()]
    if row not in known:
        raise ValueError(f"Table C.1 has no row {row!r}. Its rows are: {', '.join(known)}")
    return _number(row, column)


def values(column: str) -> dict[str, float]:
    """Row -> its figure in percent, without the rows where the paper has none.

    Raises:
        ValueError: there is no such column.
    """
    figures = {row.task: _value(row.task, column) for row in rows()}
    return {row: figure for row, figure in figures.items() if figure is not None}


@cache
def _table(name: str) -> tuple[dict[str, str], ...]:
    """A file of ``tables/``: a dictionary for each line."""
    with (TABLES / name).open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def _number(row: str, column: str) -> float | None:
    if column not in columns():
        raise ValueError(
            f"the paper has no column {column!r}. Its columns are: {', '.join(columns())}"
        )
    line = next(line for line in _table("table_c1.csv") if line["task"] == row)
    return float(line[column]) if line[column] else None


GROUP_NAMES = {"vision": "Vision", "nlp": "NLP", "multimodal": "Multimodal"}

MACROS = {
    "Macro average of vision and NLP (as in Table C.1)": ("vision", "nlp"),
    "Macro average of all three groups (as in Table D.1)": GROUPS,
}
"""Label -> the groups it averages: "Macro Avg." is not the same in the paper's two tables."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over rows of Table C.1, of which some may be missing."""

    label: str
    value: float | None
    """None if there is no row to average, or if a macro average lacks a group."""
    n: int
    """The number of rows that it averages over, directly or through their groups."""
    total: int
    """The number of rows that it would average over in a full column."""

    @property
    def is_complete(self) -> bool:
        return self.n == self.total


def averages(values: Mapping[str, float]) -> tuple[Average, ...]:
    """The three groups' averages, then the two macro averages, each the mean of its groups'.

    Args:
        values: Row of Table C.1 -> figure. Rows may be missing; other names are ignored.
    """
    groups = {group: group_average(group, values) for group in GROUPS}
    return (*groups.values(), *(_macro_average(label, groups) for label in MACROS))


def group_average(group: str, values: Mapping[str, float]) -> Average:
    """The unweighted mean of a group's rows."""
    names = [row.task for row in rows() if row.group == group]
    found = [values[name] for name in names if name in values]
    return Average(
        label=f"{GROUP_NAMES[group]} average",
        value=sum(found) / len(found) if found else None,
        n=len(found),
        total=len(names),
    )


def _macro_average(label: str, groups: Mapping[str, Average]) -> Average:
    """The mean of some groups' averages; its value is None if one of them is missing."""
    parts = [groups[group] for group in MACROS[label]]
    known = [part.value for part in parts if part.value is not None]
    return Average(
        label=label,
        value=sum(known) / len(parts) if len(known) == len(parts) else None,
        n=sum(part.n for part in parts),
        total=sum(part.total for part in parts),
    )

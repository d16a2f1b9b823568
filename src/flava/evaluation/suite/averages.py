"""The averages of a column of Table C.1, computed from its rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from flava.evaluation.suite.paper import GROUPS, rows

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

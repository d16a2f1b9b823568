"""The suite's results as columns of Table C.1: on the terminal, Markdown and CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table as Drawn

from flava.suite import paper
from flava.suite.paper import GROUP_NAMES, Average, averages
from flava.suite.results_file import FILE, SuiteResult, read_results

PERCENT = 100
"""The paper gives all figures in percent, correlations too; results are between -1 and 1."""

SAME = 0.005
"""Percentage points: a smaller difference shows as 0.00."""

DISTINGUISHING = ("few", "seed", "precision")
"""Settings whose change makes a column of its own. One column may hold tasks from several data
roots, and in batches of several sizes."""

LABEL_LETTERS = 40
"""A longer name of a model is cut to its end."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one model was found to do by one set of settings."""

    label: str
    """The model as the user named it; with what tells it from the others if that is needed."""
    results: tuple[SuiteResult, ...]

    @property
    def few(self) -> int | None:
        """Samples of a split that were looked at, if not all."""
        return self.results[0].settings.get("few")

    @property
    def cells(self) -> dict[str, float]:
        """Row -> its figure in percent; of one measured twice, the last."""
        return {each.row: PERCENT * each.value for each in self.results if each.row is not None}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table: a row or an average, in percent."""

    label: str
    paper: float | None
    cells: tuple[float | None, ...]
    """One for each column."""

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each cell less the paper's."""
        return tuple(
            None if cell is None or self.paper is None else cell - self.paper for cell in self.cells
        )


@dataclass(frozen=True, kw_only=True)
class Section:
    """A group's rows."""

    group: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """All 41 rows in their groups, then averages over what every column has."""

    paper: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    averages: tuple[Line, ...]


def make_table(results: Sequence[SuiteResult], column: str) -> Table:
    """The results beside the paper's column of that name.

    Raises:
        ValueError: the paper has no such column.
    """
    published = paper.values(column)
    columns = columns_of(results)
    cells = [each.cells for each in columns]
    sections = tuple(
        Section(
            group=group,
            lines=tuple(
                Line(
                    label=row.task,
                    paper=published.get(row.task),
                    cells=tuple(each.get(row.task) for each in cells),
                )
                for row in paper.rows()
                if row.group == group
            ),
        )
        for group in paper.GROUPS
    )
    shared = set(published).intersection(*cells)
    kept = [{row: each[row] for row in shared} for each in (published, *cells)]
    means = zip(*(averages(each) for each in kept), strict=True)
    return Table(
        paper=column,
        columns=columns,
        sections=sections,
        averages=tuple(average_line(same) for same in means),
    )


def average_line(same: Sequence[Average]) -> Line:
    """One average of the paper's column and of each other, over the same rows."""
    first, *others = same
    rows = f"{first.n} rows" if first.whole else f"{first.n} of {first.of} rows"
    return Line(
        label=f"{first.label}, {rows}",
        paper=first.value,
        cells=tuple(each.value for each in others),
    )


def columns_of(results: Sequence[SuiteResult]) -> tuple[Column, ...]:
    """The results by weights and settings, in their order, under names that tell them apart."""
    groups: dict[tuple[Any, ...], list[SuiteResult]] = {}
    for each in results:
        kept = (each.weights, *(each.settings.get(name) for name in DISTINGUISHING))
        groups.setdefault(kept, []).append(each)
    firsts = [group[0] for group in groups.values()]
    labels = distinct([label_of(each) for each in firsts], firsts)
    return tuple(
        Column(label=label, results=tuple(group))
        for label, group in zip(labels, groups.values(), strict=True)
    )


def label_of(result: SuiteResult) -> str:
    """The model's name, and whether it saw but a few samples."""
    name = result.model.rstrip("/")
    if len(name) > LABEL_LETTERS:
        name = "\N{HORIZONTAL ELLIPSIS}" + name[1 - LABEL_LETTERS :]
    few = result.settings.get("few")
    return f"{name} (few: {few})" if few is not None else name


def distinct(labels: list[str], results: Sequence[SuiteResult]) -> list[str]:
    """The labels, those that occur twice followed by what their results differ in."""
    made = []
    for label, result in zip(labels, results, strict=True):
        same = [other for name, other in zip(labels, results, strict=True) if name == label]
        differing = [
            f"{name} {result.settings.get(name)}"
            for name in DISTINGUISHING
            if any(other.settings.get(name) != result.settings.get(name) for other in same)
        ]
        if any(other.weights != result.weights for other in same):
            differing.append(f"weights {result.weights[:8]}")
        made.append(f"{label} [{', '.join(differing)}]" if differing else label)
    return made


def read_all(places: Sequence[Path]) -> list[SuiteResult]:
    """The results of files, or of folders that hold a results.jsonl.

    Raises:
        FileNotFoundError: some are missing; all of them in one error.
        ValueError: some are damaged, or they hold no result.
    """
    found: list[SuiteResult] = []
    mistakes: list[Exception] = []
    for place in places:
        try:
            is_file = place.is_file() or place.suffix == Path(FILE).suffix
            found += read_results(place if is_file else place / FILE)
        except (OSError, ValueError) as error:
            mistakes.append(error)
    if mistakes:
        kind = ValueError if any(isinstance(each, ValueError) for each in mistakes) else OSError
        raise kind("\n".join(map(str, mistakes)))
    if not found:
        raise ValueError(
            f"there are no results in {', '.join(map(str, places))}: give a "
            "results.jsonl, or a folder that holds one"
        )
    return found


def percent(value: float | None) -> str:
    """Two decimals, as the paper prints; a dash where nothing was measured."""
    return "\N{EN DASH}" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def points(difference: float | None) -> str:
    """A difference in percentage points with its sign; empty where there is none."""
    if difference is None:
        return ""
    if abs(difference) < SAME:
        return "0.00"
    return f"{difference:+.2f}".replace("-", "\N{MINUS SIGN}")


def drawn(table: Table) -> Drawn:
    """For a terminal: each figure with its difference from the paper's behind it."""
    made = Drawn(title="in percent; behind each figure, the difference from the paper's")
    made.title_style, made.title_justify = "", "left"
    made.add_column("task", overflow="fold")
    made.add_column(escape(f"paper: {table.paper}"), justify="right")
    for column in table.columns:
        made.add_column(escape(column.label), justify="right", overflow="fold")
    for section in table.sections:
        made.add_section()
        made.add_row(f"[bold]{GROUP_NAMES[section.group]}[/]")
        for line in section.lines:
            made.add_row(*drawn_cells(line))
    made.add_section()
    for line in table.averages:
        made.add_row(*drawn_cells(line))
    return made


def drawn_cells(line: Line) -> Iterator[str]:
    yield line.label
    yield percent(line.paper)
    for cell, difference in zip(line.cells, line.differences, strict=True):
        behind = points(difference)
        colour = tone(difference)
        tinted = f"[{colour}]{behind:>7}[/]" if colour else f"{behind:>7}"
        yield f"{percent(cell)} {tinted}"


def tone(difference: float | None) -> str:
    """The colour of a difference; its sign says the same."""
    if difference is None or abs(difference) < SAME:
        return ""
    return "green" if difference > 0 else "red"


def markdown(table: Table) -> str:
    """A pipe table: each figure, and behind it in its own column the difference."""
    titles = ["task", f"paper: {table.paper}"]
    for column in table.columns:
        titles += [column.label, "\N{GREEK CAPITAL LETTER DELTA}"]
    lines = [
        "Figures in percent. \N{GREEK CAPITAL LETTER DELTA} is the difference from the paper's "
        f"column {table.paper} (Singh et al. 2022, Table C.1).",
        "",
        piped(titles),
        "| --- |" + " ---: |" * (len(titles) - 1),
    ]
    for section in table.sections:
        lines.append(piped([f"**{GROUP_NAMES[section.group]}**", *[""] * (len(titles) - 1)]))
        lines += [piped(markdown_cells(line)) for line in section.lines]
    lines.append(piped(["**Averages**", *[""] * (len(titles) - 1)]))
    lines += [piped(markdown_cells(line)) for line in table.averages]
    return "\n".join(lines) + "\n"


def markdown_cells(line: Line) -> list[str]:
    cells = [line.label, percent(line.paper)]
    for cell, difference in zip(line.cells, line.differences, strict=True):
        cells += [percent(cell), points(difference)]
    return cells


def piped(cells: list[str]) -> str:
    """A line of a pipe table; what would end a cell or begin an element is escaped."""
    safe = (
        cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
        for cell in cells
    )
    return f"| {' | '.join(safe)} |"


def comma_separated(table: Table) -> str:
    """As Table C.1's file: group, task, and columns in percent; empty where not measured."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    labels = [column.label for column in table.columns]
    writer.writerow(["group", "task", f"paper: {table.paper}", *labels])
    for section in table.sections:
        for line in section.lines:
            writer.writerow([section.group, line.label, *plain(line)])
    for line in table.averages:
        writer.writerow(["average", line.label, *plain(line)])
    return made.getvalue()


def plain(line: Line) -> list[str]:
    """Four decimals: what was measured on many samples has them, and a reader may round."""
    return ["" if cell is None else f"{cell:.4f}" for cell in (line.paper, *line.cells)]

"""The suite's results as columns beside the paper's: for the terminal, as Markdown and as CSV."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from flava.reports.formatting import DASH, MINUS, csv_text, markdown_table, signed
from flava.suite import paper
from flava.suite.paper import GROUP_NAMES, Average, averages
from flava.suite.results_file import FILE, SuiteResult, read_results

PERCENT = 100
"""The paper gives all figures in percent, correlations too; results are between -1 and 1."""

SAME = 0.005
"""Percentage points: a smaller difference shows as 0.00."""

DISTINGUISHING_SETTINGS = ("few", "seed", "precision")
"""Results that differ in one of these settings are in separate columns. One column may hold tasks
from several data roots and of several batch sizes."""

MAX_LABEL_LENGTH = 40
"""The beginning of a longer model name is cut off."""


@dataclass(frozen=True, kw_only=True)
class ModelColumn:
    """The results of one model with one set of settings."""

    label: str
    """The model as the user named it; followed by what distinguishes it from others of that name
    and by the number of samples if not all were used."""
    results: tuple[SuiteResult, ...]

    @property
    def few(self) -> int | None:
        """How many samples of each split were used; None if all were."""
        return self.results[0].settings.get("few")

    @property
    def cells(self) -> dict[str, float]:
        """Row of Table C.1 -> its figure in percent; the last one of a row measured twice."""
        return {each.row: PERCENT * each.value for each in self.results if each.row is not None}


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """A line of the table, a row of Table C.1 or an average. All figures are in percent."""

    label: str
    paper: float | None
    cells: tuple[float | None, ...]
    """One for each column."""

    @property
    def differences(self) -> tuple[float | None, ...]:
        """Each cell minus the paper's figure."""
        return tuple(
            None if cell is None or self.paper is None else cell - self.paper for cell in self.cells
        )


@dataclass(frozen=True, kw_only=True)
class TableSection:
    """The rows of a group."""

    group: str
    lines: tuple[TableLine, ...]


@dataclass(frozen=True, kw_only=True)
class SuiteTable:
    """All 41 rows in their groups, then averages over the rows that every column has."""

    paper: str
    """The name of the paper's column."""
    columns: tuple[ModelColumn, ...]
    sections: tuple[TableSection, ...]
    averages: tuple[TableLine, ...]


def make_table(results: Sequence[SuiteResult], column: str) -> SuiteTable:
    """The results beside the paper's column of that name.

    Raises:
        ValueError: the paper has no such column.
    """
    published = paper.values(column)
    columns = _columns_of(results)
    cells = [each.cells for each in columns]
    sections = tuple(
        TableSection(
            group=group,
            lines=tuple(
                TableLine(
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
    shared_rows = set(published).intersection(*cells)
    shared_cells = [{row: each[row] for row in shared_rows} for each in (published, *cells)]
    means = zip(*(averages(each) for each in shared_cells), strict=True)
    return SuiteTable(
        paper=column,
        columns=columns,
        sections=sections,
        averages=tuple(_average_line(mean_of_columns) for mean_of_columns in means),
    )


def _average_line(mean_of_columns: Sequence[Average]) -> TableLine:
    """One average, of the paper's column and then of each other, over the same rows."""
    first, *others = mean_of_columns
    rows = f"{first.n} rows" if first.is_complete else f"{first.n} of {first.total} rows"
    return TableLine(
        label=f"{first.label}, {rows}",
        paper=first.value,
        cells=tuple(each.value for each in others),
    )


def _columns_of(results: Sequence[SuiteResult]) -> tuple[ModelColumn, ...]:
    """The results grouped by weights and settings, in their order, with distinct labels."""
    groups: dict[tuple[Any, ...], list[SuiteResult]] = {}
    for each in results:
        key = (each.weights, *(each.settings.get(name) for name in DISTINGUISHING_SETTINGS))
        groups.setdefault(key, []).append(each)
    firsts = [group[0] for group in groups.values()]
    labels = _distinct_labels([_label_of(each) for each in firsts], firsts)
    return tuple(
        ModelColumn(label=label, results=tuple(group))
        for label, group in zip(labels, groups.values(), strict=True)
    )


def _label_of(result: SuiteResult) -> str:
    """The model's name, and the number of samples if not all were used."""
    name = result.model.rstrip("/")
    if len(name) > MAX_LABEL_LENGTH:
        name = "\N{HORIZONTAL ELLIPSIS}" + name[1 - MAX_LABEL_LENGTH :]
    few = result.settings.get("few")
    return f"{name} (few: {few})" if few is not None else name


def _distinct_labels(labels: list[str], results: Sequence[SuiteResult]) -> list[str]:
    """The labels; those that occur twice are followed by what their results differ in."""
    distinct = []
    for label, result in zip(labels, results, strict=True):
        same = [other for name, other in zip(labels, results, strict=True) if name == label]
        differing = [
            f"{name} {result.settings.get(name)}"
            for name in DISTINGUISHING_SETTINGS
            if any(other.settings.get(name) != result.settings.get(name) for other in same)
        ]
        if any(other.weights != result.weights for other in same):
            differing.append(f"weights {result.weights[:8]}")
        distinct.append(f"{label} [{', '.join(differing)}]" if differing else label)
    return distinct


def read_result_files(paths: Sequence[Path]) -> list[SuiteResult]:
    """The results of files, or of folders that hold a results.jsonl.

    Raises:
        FileNotFoundError: some are missing; all of them are named in one error.
        ValueError: some are damaged, or they hold no result.
    """
    results: list[SuiteResult] = []
    errors: list[Exception] = []
    for path in paths:
        try:
            is_file = path.is_file() or path.suffix == Path(FILE).suffix
            results += read_results(path if is_file else path / FILE)
        except (OSError, ValueError) as error:
            errors.append(error)
    if errors:
        kind = ValueError if any(isinstance(each, ValueError) for each in errors) else OSError
        raise kind("\n".join(map(str, errors)))
    if not results:
        raise ValueError(
            f"there are no results in {', '.join(map(str, paths))}: give a "
            "results.jsonl, or a folder that holds one"
        )
    return results


def percent(value: float | None) -> str:
    """A figure in percent with two decimals, as the paper prints it; a dash for None."""
    return DASH if value is None else f"{value:.2f}".replace("-", MINUS)


def points(difference: float | None) -> str:
    """A difference in percentage points with its sign; empty for None."""
    if difference is None:
        return ""
    return "0.00" if abs(difference) < SAME else signed(difference, 2)


def terminal_table(table: SuiteTable) -> Table:
    """The table for a terminal: after each figure its difference from the paper's."""
    drawn = Table(title="in percent; behind each figure, the difference from the paper's")
    drawn.title_style, drawn.title_justify = "", "left"
    drawn.add_column("task", overflow="fold")
    drawn.add_column(escape(f"paper: {table.paper}"), justify="right")
    for column in table.columns:
        drawn.add_column(escape(column.label), justify="right", overflow="fold")
    for section in table.sections:
        drawn.add_section()
        drawn.add_row(f"[bold]{GROUP_NAMES[section.group]}[/]")
        for line in section.lines:
            drawn.add_row(*_terminal_cells(line))
    drawn.add_section()
    for line in table.averages:
        drawn.add_row(*_terminal_cells(line))
    return drawn


def _terminal_cells(line: TableLine) -> Iterator[str]:
    yield line.label
    yield percent(line.paper)
    for cell, difference in zip(line.cells, line.differences, strict=True):
        text = f"{points(difference):>7}"
        colour = _difference_colour(difference)
        yield f"{percent(cell)} " + (f"[{colour}]{text}[/]" if colour else text)


def _difference_colour(difference: float | None) -> str:
    """Rich's name for the colour of a difference; the sign says the same as the colour."""
    if difference is None or abs(difference) < SAME:
        return ""
    return "green" if difference > 0 else "red"


def as_markdown(table: SuiteTable) -> str:
    """A pipe table: after each column of figures one with the differences from the paper's."""
    delta = "\N{GREEK CAPITAL LETTER DELTA}"
    head = ["task", f"paper: {table.paper}"]
    for column in table.columns:
        head += [column.label, delta]
    blank = [""] * (len(head) - 1)
    rows: list[list[str]] = []
    for section in table.sections:
        rows.append([f"**{GROUP_NAMES[section.group]}**", *blank])
        rows += map(_markdown_cells, section.lines)
    rows += [["**Averages**", *blank], *map(_markdown_cells, table.averages)]
    return (
        f"Figures in percent. {delta} is the difference from the paper's column {table.paper} "
        f"(Singh et al. 2022, Table C.1).\n\n{markdown_table(head, rows)}\n"
    )


def _markdown_cells(line: TableLine) -> list[str]:
    cells = [line.label, percent(line.paper)]
    for cell, difference in zip(line.cells, line.differences, strict=True):
        cells += [percent(cell), points(difference)]
    return cells


def as_csv(table: SuiteTable) -> str:
    """The layout of the paper's table_c1.csv: group, task, columns in percent; empty for None."""
    labels = [column.label for column in table.columns]
    sections = [(section.group, section.lines) for section in table.sections]
    return csv_text(
        [
            ["group", "task", f"paper: {table.paper}", *labels],
            *(
                [group, line.label, *_csv_cells(line)]
                for group, lines in (*sections, ("average", table.averages))
                for line in lines
            ),
        ]
    )


def _csv_cells(line: TableLine) -> list[str]:
    """Four decimals: figures of many samples are that exact, and readers may round them."""
    return ["" if cell is None else f"{cell:.4f}" for cell in (line.paper, *line.cells)]

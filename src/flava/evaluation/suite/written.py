"""The suite's table for a terminal, and as Markdown and CSV."""

import csv
import io
from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table as Drawn

from flava.evaluation.suite.averages import GROUP_NAMES
from flava.evaluation.suite.table import SAME, Line, Table, percent, points


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

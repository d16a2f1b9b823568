"""The comparison of columns as a page, Markdown and CSV, in the form of Table C.1."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from flava.core.files import write_atomically
from flava.reports.charts import ACCENT, MUTED, STYLE, themed_svg
from flava.reports.run_report import environment
from flava.suite import paper
from flava.suite.comparison import (
    HEADS,
    NOISE,
    QUESTIONS,
    ROWS,
    Answer,
    ComparisonRow,
    Estimate,
    MeasuredColumns,
    PaperQuestion,
    answers,
    macro,
    of_group,
    of_row,
    papers_average,
    rank_correlation,
)
from flava.suite.paper import GROUP_NAMES, MACROS
from flava.suite.task import Group


def draw_group(group: Group, columns: MeasuredColumns) -> str | None:
    """Dots with twice their standard error; the paper's have none. None if no column has it."""
    ours = {c: found for c, each in columns.items() if (found := of_group(group, each)) is not None}
    if not ours:
        return None
    names = list(ours)
    theirs = {
        c: value
        for c in names
        if c in paper.columns() and (value := papers_average(group, c)) is not None
    }
    with mpl.rc_context({**STYLE, "svg.hashsalt": group}):
        figure = Figure(figsize=(5.4, 0.6 + 0.24 * len(names)), layout="constrained")
        here, there = figure.subplots(1, 2, sharey=True)
        here.errorbar(
            [100 * ours[c].value for c in names],
            range(len(names)),
            xerr=[100 * NOISE * ours[c].error for c in names],
            fmt="o",
            color=ACCENT,
            markersize=4,
            linewidth=1.2,
        )
        here.set_yticks(range(len(names)), names)
        here.invert_yaxis()
        here.set_title("here, %", fontsize=9)
        places = [names.index(c) for c in theirs]
        there.plot([100 * v for v in theirs.values()], places, "o", color=MUTED, markersize=4)
        there.set_title("the paper, %", fontsize=9)
        return themed_svg(figure, group)


NAME = "reproduction"
"""The files' name before its suffix."""


@dataclass(frozen=True)
class ComparisonLine:
    """A line of the table: a row, or an average, with its figure in each column."""

    title: str
    cells: tuple[Estimate | None, ...]
    is_average: bool = False

    @property
    def best(self) -> float | None:
        """The highest figure, if there are several."""
        values = [cell.value for cell in self.cells if cell is not None]
        return max(values) if len(values) > 1 else None


@dataclass(frozen=True)
class TableBlock:
    """The lines of a group."""

    title: str
    lines: tuple[ComparisonLine, ...]


@dataclass(frozen=True)
class ReportedAnswer:
    """A question with its answers, and what they say in words."""

    question: PaperQuestion
    answers: tuple[Answer, ...]
    words: str


def write_comparison(
    columns: MeasuredColumns, facts: Sequence[tuple[str, str]], notes: Sequence[str], folder: Path
) -> Path:
    """Write ``reproduction.html``, ``.md`` and ``.csv`` and return the page's path.

    Args:
        columns: In the order that they are shown in.
        facts: (what, value) for the page's head.
        notes: What a reader must know before the figures.

    Raises:
        OSError: a file could not be written.
    """
    blocks, found = table(columns), questions(columns)
    notes = [*notes, *remarks(columns)]
    page = environment(folder).get_template("comparison.html.jinja")
    html = page.render(
        name="Table C.1, reproduced at small scale",
        command="flava reproduce",
        facts=facts,
        notes=notes,
        columns=list(columns),
        numbers={column: i for i, column in enumerate(paper.columns(), 1)},
        blocks=blocks,
        questions=found,
        charts=charts(columns),
        group_names=GROUP_NAMES,
        percent=percent,
        points=points,
        signed_points=signed_points,
        verdict=verdict,
    )
    for suffix, text in (
        (".csv", as_csv(columns, blocks)),
        (".md", as_markdown(columns, blocks, found, notes)),
        (".html", html),
    ):
        write_atomically(folder / f"{NAME}{suffix}", text.encode())
    return folder / f"{NAME}.html"


def table(columns: MeasuredColumns) -> list[TableBlock]:
    """The groups with their rows and averages, the macro averages, and what needs heads."""
    blocks = [
        TableBlock(
            GROUP_NAMES[group],
            (
                *lines([row for row in ROWS if row.group == group], columns),
                ComparisonLine(
                    f"{GROUP_NAMES[group]} average",
                    tuple(of_group(group, each) for each in columns.values()),
                    is_average=True,
                ),
            ),
        )
        for group in paper.GROUPS
    ]
    means = (
        ComparisonLine(
            label, tuple(macro(groups, each) for each in columns.values()), is_average=True
        )
        for label, groups in MACROS.items()
    )
    blocks.append(TableBlock("Macro averages", tuple(means)))
    return [
        *blocks,
        TableBlock("By the column's own heads, in no average", tuple(lines(HEADS, columns))),
    ]


def lines(rows: Iterable[ComparisonRow], columns: MeasuredColumns) -> Iterable[ComparisonLine]:
    for row in rows:
        yield ComparisonLine(row.title, tuple(of_row(row, each) for each in columns.values()))


def questions(columns: MeasuredColumns) -> list[ReportedAnswer]:
    """Those that the columns answer."""
    found = ((question, tuple(answers(question, columns))) for question in QUESTIONS)
    return [ReportedAnswer(question, given, in_words(given)) for question, given in found if given]


def in_words(given: Sequence[Answer]) -> str:
    """A sentence a group: how many of the differences are beyond the noise, and which way."""
    sentences = []
    for group in paper.GROUPS:
        ours = [answer.differences[group] for answer in given if group in answer.differences]
        if not ours:
            continue
        clear = [each for each in ours if not each.is_noise]
        up, down = (sum((each.value > 0) is way for each in clear) for way in (True, False))
        said = [f"{n} {word}" for n, word in ((up, "higher"), (down, "lower")) if n]
        if len(clear) < len(ours):
            said.append(f"{len(ours) - len(clear)} within the noise")
        sentences.append(f"{GROUP_NAMES[group]}: {', '.join(said)}.")
    ways = [way for a in given for group in a.differences if (way := a.agrees(group)) is not None]
    if ways:
        sentences.append(
            f"Of those beyond the noise {sum(ways)} of {len(ways)} go the paper's way."
        )
    return " ".join(sentences)


def remarks(columns: MeasuredColumns) -> list[str]:
    """What the figures can and cannot tell."""
    seeds = {len(each) for each in columns.values()}
    if seeds == {1}:
        return [
            "One seed: the errors shown are those that the number of test items leaves. What "
            "another seed would change is not known: --seeds 3 tells."
        ]
    return [f"Seeds: {', '.join(map(str, sorted(seeds)))}. Errors hold test items and seeds."]


def charts(columns: MeasuredColumns) -> list[tuple[str, Markup, str]]:
    """(title, drawing, words) of each group: its averages here and in the paper."""
    found = []
    for group in paper.GROUPS:
        drawing = draw_group(group, columns)
        if drawing is None:
            continue
        related = rank_correlation(group, columns)
        words = (
            f"Rank correlation with the paper over {related[1]} columns: {related[0]:+.2f}."
            if related
            else "Too few columns for a rank correlation."
        )
        found.append((f"{GROUP_NAMES[group]} average", Markup(drawing), words))
    return found


def as_csv(columns: MeasuredColumns, blocks: Sequence[TableBlock]) -> str:
    """A line a figure: block, row, column, value, standard error, the values of the seeds."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("block", "row", "column", "value", "standard_error", "seeds"))
    for block in blocks:
        for line in block.lines:
            for column, cell in zip(columns, line.cells, strict=True):
                if cell is not None:
                    seeds = " ".join(f"{value:.6f}" for value in cell.seeds)
                    writer.writerow(
                        (
                            block.title,
                            line.title,
                            column,
                            f"{cell.value:.6f}",
                            f"{cell.error:.6f}",
                            seeds,
                        )
                    )
    return file.getvalue()


def as_markdown(
    columns: MeasuredColumns,
    blocks: Sequence[TableBlock],
    found: Sequence[ReportedAnswer],
    notes: Sequence[str],
) -> str:
    """The table in percent, and the questions with their differences in points."""
    parts = ["# Table C.1, reproduced at small scale", *notes]
    for block in blocks:
        rows = [
            [line.title, *(percent(cell) if cell else "" for cell in line.cells)]
            for line in block.lines
        ]
        parts += [f"## {block.title}", markdown_table(["", *columns], rows)]
    groups = [GROUP_NAMES[group] for group in paper.GROUPS]
    for each in found:
        rows = [
            [
                f"{a.with_it} - {a.without}",
                *(f"{difference_of(a, g)} {paper_of(a, g)}" for g in paper.GROUPS),
            ]
            for a in each.answers
        ]
        parts += [f"## {each.question.title}", each.words, markdown_table(["", *groups], rows)]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---", *["---:"] * (len(head) - 1)], *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference_of(answer: Answer, group: Group) -> str:
    difference = answer.differences.get(group)
    return f"{points(difference)}, {verdict(difference)}" if difference else ""


def paper_of(answer: Answer, group: Group) -> str:
    theirs = answer.papers.get(group)
    return "" if theirs is None else f"(paper {signed_points(theirs)})"


def verdict(difference: Estimate) -> str:
    """What a difference says."""
    if difference.is_noise:
        return "within the noise"
    return "higher" if difference.value > 0 else "lower"


def percent(cell: Estimate) -> str:
    """In percent, with the spread over seeds if there are several."""
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.1f}"
    return f"{100 * cell.value:.1f}{spread}"


def points(difference: Estimate) -> str:
    """A difference in percentage points with twice its standard error."""
    return f"{signed_points(difference.value)} ± {200 * difference.error:.1f}"


def signed_points(value: float) -> str:
    return f"{100 * value:+z.1f}".replace("-", "\N{MINUS SIGN}")

"""The comparison of Table C.1's columns as a page, as Markdown and as CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flava.core.files import write_atomically
from flava.reports.charts import Chart, dots_beside_paper
from flava.reports.formatting import csv_text, markdown_table, signed
from flava.reports.page import render_page
from flava.suite import paper
from flava.suite.comparison import (
    ABLATIONS,
    HEAD_ROWS,
    MIN_STANDARD_ERRORS,
    ROWS,
    Ablation,
    ComparisonRow,
    Difference,
    Estimate,
    MeasuredColumns,
    differences,
    group_estimate,
    macro_estimate,
    paper_average,
    rank_correlation,
    row_estimate,
)
from flava.suite.paper import GROUP_NAMES, MACROS
from flava.suite.task import Group

FILE_STEM = "reproduction"
TITLE = "Table C.1, reproduced at small scale"


@dataclass(frozen=True)
class ComparisonLine:
    """A line of the table, a row or an average, with its figure in each column."""

    title: str
    cells: tuple[Estimate | None, ...]
    is_average: bool = False

    @property
    def best(self) -> float | None:
        """The highest figure; None if there are fewer than two."""
        values = [cell.value for cell in self.cells if cell is not None]
        return max(values) if len(values) > 1 else None


@dataclass(frozen=True)
class ComparisonSection:
    """A part of the table under its own heading."""

    title: str
    lines: tuple[ComparisonLine, ...]


@dataclass(frozen=True)
class AblationResult:
    """The differences of an ablation's columns, and a summary of them in words."""

    ablation: Ablation
    differences: tuple[Difference, ...]
    summary: str


def write_comparison(
    columns: MeasuredColumns, facts: Sequence[tuple[str, str]], notes: Sequence[str], folder: Path
) -> Path:
    """Write ``reproduction.html``, ``.md`` and ``.csv`` and return the page's path.

    Args:
        columns: In the order of the table's columns.
        facts: (name, value) pairs for the head of the page.
        notes: What a reader must know before looking at the figures.
        folder: Where the files are written.

    Raises:
        OSError: a file could not be written.
    """
    sections, ablations = _sections(columns), _ablation_results(columns)
    notes = [*notes, _note_on_seeds(columns)]
    html = render_page(
        "comparison",
        name=TITLE,
        command="flava reproduce",
        facts=facts,
        notes=notes,
        columns=list(columns),
        numbers={column: i for i, column in enumerate(paper.columns(), 1)},
        sections=sections,
        ablations=ablations,
        charts=_charts(columns),
        group_names=GROUP_NAMES,
        percent=_percent,
        points=_points,
        points_with_error=_points_with_error,
        verdict=_verdict,
    )
    for suffix, text in (
        (".csv", _as_csv(columns, sections)),
        (".md", _as_markdown(columns, sections, ablations, notes)),
        (".html", html),
    ):
        write_atomically(folder / f"{FILE_STEM}{suffix}", text.encode())
    return folder / f"{FILE_STEM}.html"


def _sections(columns: MeasuredColumns) -> list[ComparisonSection]:
    """The groups with their rows and averages, the macro averages, and the rows that need heads."""
    groups = [
        ComparisonSection(
            GROUP_NAMES[group],
            (
                *_lines([row for row in ROWS if row.group == group], columns),
                ComparisonLine(
                    f"{GROUP_NAMES[group]} average",
                    tuple(group_estimate(group, each) for each in columns.values()),
                    is_average=True,
                ),
            ),
        )
        for group in paper.GROUPS
    ]
    macro_averages = tuple(
        ComparisonLine(
            label, tuple(macro_estimate(groups, each) for each in columns.values()), is_average=True
        )
        for label, groups in MACROS.items()
    )
    return [
        *groups,
        ComparisonSection("Macro averages", macro_averages),
        ComparisonSection(
            "By the column's own heads, in no average", tuple(_lines(HEAD_ROWS, columns))
        ),
    ]


def _lines(rows: Iterable[ComparisonRow], columns: MeasuredColumns) -> Iterable[ComparisonLine]:
    for row in rows:
        yield ComparisonLine(row.title, tuple(row_estimate(row, each) for each in columns.values()))


def _ablation_results(columns: MeasuredColumns) -> list[AblationResult]:
    """The ablations of which at least one pair of columns was measured."""
    results = ((ablation, tuple(differences(ablation, columns))) for ablation in ABLATIONS)
    return [
        AblationResult(ablation, found, _summary(found)) for ablation, found in results if found
    ]


def _summary(found: Sequence[Difference]) -> str:
    """For each group how many differences are higher, lower or noise; and how many agree."""
    sentences = []
    for group in paper.GROUPS:
        estimates = [each.measured[group] for each in found if group in each.measured]
        if not estimates:
            continue
        verdicts = [_verdict(each) for each in estimates]
        counts = [
            f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts
        ]
        sentences.append(f"{GROUP_NAMES[group]}: {', '.join(counts)}.")
    agreements = [
        agrees
        for each in found
        for group in each.measured
        if (agrees := each.agrees(group)) is not None
    ]
    if agreements:
        same = f"{sum(agreements)} of {len(agreements)}"
        sentences.append(f"Of those beyond the noise, {same} have the paper's sign.")
    return " ".join(sentences)


def _note_on_seeds(columns: MeasuredColumns) -> str:
    """What the errors include."""
    seeds = {len(each) for each in columns.values()}
    if seeds == {1}:
        return (
            "One seed: the errors come only from the number of test items. What another seed would "
            "change is not known: use --seeds 3 to measure it."
        )
    numbers = ", ".join(map(str, sorted(seeds)))
    return f"Seeds: {numbers}. The errors include those of the test items and of the seeds."


def _charts(columns: MeasuredColumns) -> list[Chart]:
    """For each group its averages here and in the paper."""
    charts = []
    for group in paper.GROUPS:
        measured = {
            column: (100 * found.value, 100 * MIN_STANDARD_ERRORS * found.error)
            for column, each in columns.items()
            if (found := group_estimate(group, each)) is not None
        }
        if not measured:
            continue
        published = {
            column: 100 * value
            for column in measured
            if column in paper.columns() and (value := paper_average(group, column)) is not None
        }
        correlation = rank_correlation(group, columns)
        meaning = (
            f"Rank correlation with the paper over {correlation[1]} columns: {correlation[0]:+.2f}."
            if correlation
            else "Too few columns for a rank correlation."
        )
        drawing = dots_beside_paper(group, measured, published)
        charts.append(Chart(title=f"{GROUP_NAMES[group]} average", meaning=meaning, svg=drawing))
    return charts


def _as_csv(columns: MeasuredColumns, sections: Sequence[ComparisonSection]) -> str:
    """A line for each figure, all between 0 and 1."""
    header = ("block", "row", "column", "value", "standard_error", "seeds")
    figures = (
        (
            section.title,
            line.title,
            column,
            f"{cell.value:.6f}",
            f"{cell.error:.6f}",
            " ".join(f"{value:.6f}" for value in cell.seeds),
        )
        for section in sections
        for line in section.lines
        for column, cell in zip(columns, line.cells, strict=True)
        if cell is not None
    )
    return csv_text((header, *figures))


def _as_markdown(
    columns: MeasuredColumns,
    sections: Sequence[ComparisonSection],
    ablations: Sequence[AblationResult],
    notes: Sequence[str],
) -> str:
    """The table in percent, and the ablations with their differences in percentage points."""
    parts = [f"# {TITLE}", *notes]
    for section in sections:
        rows = [
            [line.title, *(_percent(cell) if cell else "" for cell in line.cells)]
            for line in section.lines
        ]
        parts += [f"## {section.title}", markdown_table(["", *columns], rows)]
    for result in ablations:
        rows = [
            [
                f"{each.column} - {each.baseline}",
                *(_markdown_difference(each, group) for group in paper.GROUPS),
            ]
            for each in result.differences
        ]
        table = markdown_table(["", *GROUP_NAMES.values()], rows)
        parts += [f"## {result.ablation.title}", result.summary, table]
    return "\n\n".join(parts) + "\n"


def _markdown_difference(difference: Difference, group: Group) -> str:
    measured, published = difference.measured.get(group), difference.published.get(group)
    here = f"{_points_with_error(measured)}, {_verdict(measured)}" if measured else ""
    there = "" if published is None else f"(paper {_points(published)})"
    return f"{here} {there}"


HIGHER, LOWER, NOISE = VERDICTS = ("higher", "lower", "within the noise")


def _verdict(difference: Estimate) -> str:
    if difference.is_noise:
        return NOISE
    return HIGHER if difference.value > 0 else LOWER


def _percent(cell: Estimate) -> str:
    """In percent, with the standard deviation over seeds if there are several."""
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.1f}"
    return f"{100 * cell.value:.1f}{spread}"


def _points(difference: float) -> str:
    """A difference of shares in percentage points."""
    return signed(100 * difference, 1)


def _points_with_error(difference: Estimate) -> str:
    """A difference in percentage points with twice its standard error."""
    error = 100 * MIN_STANDARD_ERRORS * difference.error
    return f"{_points(difference.value)} ± {error:.1f}"

"""`flava report` of the suite's results: the table on the terminal, and as files on request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.console import Console

from flava.core.files import write_atomically, write_error
from flava.reports.charts import grouped_bars, series_colour
from flava.reports.page import render_page
from flava.reports.suite_table import (
    SAME,
    ModelColumn,
    SuiteTable,
    TableLine,
    as_csv,
    as_markdown,
    make_table,
    percent,
    points,
    read_result_files,
    terminal_table,
)
from flava.suite.paper import GROUP_NAMES
from flava.suite.results_file import FILE

MEANINGS = {
    "vision": "Linear probes: a logistic regression on the frozen features of the image encoder. "
    "Accuracy; for Aircraft, Pets, Caltech101 and Flowers the mean over the classes.",
    "nlp": "GLUE, fine-tuned. Accuracy; for CoLA Matthews' correlation, for MRPC and QQP F1, for "
    "STS-B Pearson's correlation.",
    "multimodal": "VQAv2, SNLI-VE and Hateful Memes, fine-tuned (VQA accuracy, accuracy, area "
    "under the ROC curve); retrieval without training. TR finds texts for an image, IR images for "
    "a text.",
}
"""Group -> how it was measured (the paper's section 5 and supplement B)."""

PIPE_WIDTH = 1_000
"""Characters of a line where the table goes to a file or a pipe: as many as it may need."""

RUN_FILES = ("run.json", "metrics.jsonl", "evaluation.json", "classification.json")
"""A run's folder holds at least one of these."""


@dataclass(frozen=True, kw_only=True)
class ColumnSummary:
    """How many rows of a column were measured, and how they compare with the paper's."""

    label: str
    rows: int
    total: int
    compared: int
    """Measured rows that the paper has too."""
    above: int
    below: int


def is_suite(paths: Sequence[Path]) -> bool:
    """Whether these are results of the suite, and not one folder alone that is a run's."""
    if len(paths) != 1 or paths[0].is_file() or paths[0].suffix == Path(FILE).suffix:
        return True
    is_run = any((paths[0] / name).exists() for name in RUN_FILES)
    return (paths[0] / FILE).is_file() and not is_run


def report_suite(paths: Sequence[Path], paper: str, output: Path | None = None) -> None:
    """Print the table; with ``output`` also write table.md, table.csv and table.html into it.

    Raises:
        FileNotFoundError, ValueError: as `read_result_files` and `make_table`.
        OSError: the files could not be written.
    """
    table = make_table(read_result_files(paths), paper)
    console = Console()
    console.print(terminal_table(table), width=None if console.is_terminal else PIPE_WIDTH)
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(output, error) from error
    for suffix, text in (
        ("md", as_markdown(table)),
        ("csv", as_csv(table)),
        ("html", _html(table)),
    ):
        write_atomically(output / f"table.{suffix}", text.encode(errors="replace"))
    print(f"written: {output}/table.md, table.csv and table.html")


def _html(table: SuiteTable) -> str:
    return render_page(
        "suite",
        name="The evaluation suite",
        command="flava report",
        table=table,
        same=SAME,
        percent=percent,
        points=points,
        colour=series_colour,
        summaries=[_summary(table, number) for number in range(len(table.columns))],
        notes=_notes(table),
        average_chart=_bar_chart("averages", table.averages),
        groups=[
            (GROUP_NAMES[each.group], each.group, each.lines, _bar_chart(each.group, each.lines))
            for each in table.sections
        ],
        meanings=MEANINGS,
        settings=[(each.label, _settings_json(each)) for each in table.columns],
    )


def _bar_chart(name: str, lines: Sequence[TableLine]) -> Markup | None:
    """Bars of the lines that at least one column has; None if there are none."""
    measured = [line for line in lines if any(cell is not None for cell in line.cells)]
    if not measured:
        return None
    return grouped_bars(
        name,
        labels=[_short_label(line.label) for line in measured],
        values=[line.cells for line in measured],
        references=[line.paper for line in measured],
    )


def _short_label(label: str) -> str:
    """An average's label without its number of rows, a macro average's without its groups."""
    name, _, which = label.partition(",")[0].partition(" (")
    return f"Macro {which.rstrip(')')}" if which else name


def _summary(table: SuiteTable, number: int) -> ColumnSummary:
    """The summary of the column of that number."""
    lines = [line for section in table.sections for line in section.lines]
    differences = [each for line in lines if (each := line.differences[number]) is not None]
    return ColumnSummary(
        label=table.columns[number].label,
        rows=sum(line.cells[number] is not None for line in lines),
        total=len(lines),
        compared=len(differences),
        above=sum(each >= SAME for each in differences),
        below=sum(each <= -SAME for each in differences),
    )


def _notes(table: SuiteTable) -> list[str]:
    """What a reader must know before looking at the figures."""
    return [
        f"{each.label} was measured on at most {each.few:,} samples of each split: its figures "
        "only show that everything works, and must not be compared with the paper's."
        for each in table.columns
        if each.few is not None
    ]


def _settings_json(column: ModelColumn) -> str:
    """Everything that produced a column's figures, as JSON."""
    first, last = column.results[0], column.results[-1]
    dates = sorted(each.date for each in column.results)
    return json.dumps(
        {
            "model": first.model,
            "weights": first.weights,
            "settings": last.settings,
            "measured": [dates[0], dates[-1]],
            "seconds": {each.task: each.seconds for each in column.results},
            "machine": last.machine,
            "versions": last.versions,
        },
        indent=2,
        ensure_ascii=False,
    )

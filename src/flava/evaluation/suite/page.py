"""The suite's table as one HTML page that stands alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from flava.evaluation.report import environment
from flava.evaluation.suite.averages import GROUP_NAMES
from flava.evaluation.suite.bars import draw_bars, series
from flava.evaluation.suite.table import SAME, Column, Line, Table, percent, points

MEANINGS = {
    "vision": "Linear probes: a logistic regression on the frozen features of the image encoder. "
    "Accuracy; of Aircraft, Pets, Caltech101 and Flowers the mean over the classes.",
    "nlp": "GLUE, fine-tuned. Accuracy; of CoLA Matthews' correlation, of MRPC and QQP F1, of "
    "STS-B Pearson's correlation.",
    "multimodal": "VQAv2, SNLI-VE and Hateful Memes, fine-tuned (VQA accuracy, accuracy, area "
    "under ROC); retrieval without training. TR finds texts for an image, IR images for a text.",
}
"""Group -> what was done (the paper's section 5 and supplement B)."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """How a column stands to the paper's."""

    label: str
    rows: int
    of: int
    beside: int
    """Rows that the paper has too."""
    above: int
    below: int


def html(table: Table, folder: Path) -> str:
    """The page; ``folder`` is where it will stand."""
    made = environment(folder)
    made.filters.update(percent=percent, points=points)
    page = made.get_template("suite.html.jinja")
    return page.render(
        name="The evaluation suite",
        command="flava report",
        table=table,
        same=SAME,
        colour=series,
        counts=[count(table, number) for number in range(len(table.columns))],
        notes=notes(table),
        average_chart=chart("averages", table.averages),
        groups=[
            (GROUP_NAMES[each.group], each.group, each.lines, chart(each.group, each.lines))
            for each in table.sections
        ],
        meanings=MEANINGS,
        provenances=[(each.label, provenance(each)) for each in table.columns],
    )


def chart(name: str, lines: Sequence[Line]) -> Markup | None:
    """Bars of the lines that some column has; none if there are none."""
    measured = [line for line in lines if any(cell is not None for cell in line.cells)]
    return Markup(draw_bars(name, measured)) if measured else None


def count(table: Table, number: int) -> Count:
    """Of the column of that number."""
    lines = [line for section in table.sections for line in section.lines]
    differences = [each for line in lines if (each := line.differences[number]) is not None]
    return Count(
        label=table.columns[number].label,
        rows=sum(line.cells[number] is not None for line in lines),
        of=len(lines),
        beside=len(differences),
        above=sum(each >= SAME for each in differences),
        below=sum(each <= -SAME for each in differences),
    )


def notes(table: Table) -> list[str]:
    """What a reader must know before the figures."""
    return [
        f"{each.label} was measured on at most {each.few:,} samples of each split: its figures are "
        "a trial of the path, not to be compared with the paper's."
        for each in table.columns
        if each.few is not None
    ]


def provenance(column: Column) -> str:
    """What produced a column's figures, as JSON."""
    first, last = column.results[0], column.results[-1]
    dates = sorted(each.date for each in column.results)
    seconds = {each.task: each.seconds for each in column.results}
    return json.dumps(
        {
            "model": first.model,
            "weights": first.weights,
            "settings": last.settings,
            "measured": [dates[0], dates[-1]],
            "seconds": seconds,
            "machine": last.machine,
            "versions": last.versions,
        },
        indent=2,
        ensure_ascii=False,
    )

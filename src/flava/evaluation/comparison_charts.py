"""A group's averages of every column, here and in the paper, side by side."""

import matplotlib as mpl
from matplotlib.figure import Figure

from flava.evaluation.charts import ACCENT, MUTED, STYLE, themed_svg
from flava.evaluation.comparison import NOISE, Columns, of_group, papers_average
from flava.evaluation.suite import paper
from flava.evaluation.suite.task import Group


def draw_group(group: Group, columns: Columns) -> str | None:
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

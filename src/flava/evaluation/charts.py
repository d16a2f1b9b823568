"""Curves as SVG that stands in the page: its colours are the page's, in light and in dark."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

PAGE_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
}
"""What the drawing is made in -> the style sheet's colour that takes its place."""
INK, MUTED, LINE, ACCENT = PAGE_COLOURS

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

POINTS = 500
"""Raw points that a curve shows at most: more cannot be told apart."""

MARKED = 40
"""A curve of so few points has a dot at each."""

WIDTH = 1 / 80
"""Standard deviation of the smoothing, as a share of the curve."""

Curve = Float[np.ndarray, " points"]


def smooth(values: Curve) -> Curve:
    """A Gaussian average around each point, of those neighbours that there are."""
    width = max(1.0, WIDTH * len(values))
    reach = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)

    def around(numbers: Curve) -> Curve:
        return np.convolve(numbers, kernel)[len(reach) // 2 :][: len(values)]

    return around(values) / around(np.ones_like(values))


def draw_curve(name: str, steps: Curve, values: Curve, *, smoothed: bool, log: bool = False) -> str:
    """A curve over the updates: raw and light under its smoothed self, or with a dot a point.

    With ``log`` the axis is logarithmic, if every value is positive.
    ``name`` keeps the ids of one drawing apart from those of the others in the page.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        some = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
        if smoothed:
            axes.plot(steps[some], values[some], color=ACCENT, alpha=0.25, linewidth=0.9)
            axes.plot(steps[some], smooth(values)[some], color=ACCENT, linewidth=1.8)
        else:
            marker = "o" if len(steps) <= MARKED else None
            axes.plot(steps, values, color=ACCENT, linewidth=1.8, marker=marker, markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log and (values > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02)
        return themed_svg(figure, name)


def themed_svg(figure: Figure, name: str) -> str:
    """The <svg> element alone, with the page's colours and with ids of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style element would be the whole page's; the style sheet says the same for its charts.
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for drawn, colour in PAGE_COLOURS.items():
        svg = svg.replace(drawn, colour)
    return svg.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)

"""Shows results: tables on the terminal and in the page, JSON, and charts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.table import Table

from benchmarks.measure import OURS, Result
from flava.core.machine import describe_machine

HEADINGS = (
    *("work", "against", "ours", "theirs", "ratio", "goal"),
    *("GFLOP", "by operations", "of the peak"),
)
COLOURS = "#3457c9", "#d07000"
LONGEST = 6.5
"""Largest length of a bar; the number behind it gives the value."""
A_NUMBER = 0.5
"""Width of a printed number on the axis. A number that would hide the goal stands behind it."""


def show(group: str, results: Sequence[Result]) -> None:
    table = Table(*HEADINGS, title=group)
    for result in results:
        for row in rows(result):
            table.add_row(*row)
    Console().print(table)


def rows(result: Result) -> list[tuple[str, ...]]:
    """The rows of a result: one for each peer, or one without a peer."""
    ours, unit = result.contenders[OURS], result.unit
    found = [
        (
            result.name,
            peer,
            f"{ours.median:.3g} {unit}",
            f"{result.contenders[peer].median:.3g} {unit}",
            f"{result.ratio(peer):.2f}",
            f"{result.goals[peer]:.2f}" if peer in result.goals else "",
            both(gigaflops(result, OURS), gigaflops(result, peer)),
            number(result.flops_ratio(peer)),
            both(percent(result, OURS), percent(result, peer)),
        )
        for peer in result.peers
    ]
    return found or [(result.name, "", f"{ours.median:.3g} {unit}", *[""] * 6)]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def both(ours: str, peers: str) -> str:
    return " / ".join(filter(None, (ours, peers)))


def gigaflops(result: Result, contender: str) -> str:
    flops = result.contenders[contender].flops
    return f"{flops / 1e9:,.0f}" if flops else ""


def percent(result: Result, contender: str) -> str:
    share = result.utilisation(contender)
    return "" if share is None else f"{share:.0%}"


def write(page: Path, group: str, results: Sequence[Result], threads: int) -> None:
    """Write the table of a group into the page and its figures into the JSON, and draw the charts.

    Raises:
        ValueError: the page has no place for the group.
    """
    beside = page.with_suffix("")
    beside.mkdir(exist_ok=True)
    page.write_text(replaced(page.read_text(), group, markdown(results)))
    path = beside / "figures.json"
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures[group] = {
        "machine": describe_machine() | {"threads": threads},
        "results": [described(result) for result in results],
    }
    path.write_text(json.dumps(figures, indent=1) + "\n")
    chart(figures).savefig(beside / "ratios.svg", metadata={"Date": None})
    if group == "growth":
        growth_chart(results).savefig(beside / "growth.svg", metadata={"Date": None})


def replaced(page: str, group: str, table: str) -> str:
    """The page with the table between the comments that mark the group."""
    begin, end = f"<!-- {group} -->\n", f"<!-- /{group} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no lines {begin.strip()} and {end} for the table")
    return before + begin + table + end + after


def described(result: Result) -> dict[str, Any]:
    found = asdict(result)
    found["ratios"] = {peer: result.ratio(peer) for peer in result.peers}
    return found


def markdown(results: Sequence[Result]) -> str:
    table = [HEADINGS, ("---",) * len(HEADINGS), *(row for r in results for row in rows(r))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def chart(figures: dict[str, Any]) -> Figure:
    """A bar for the ratio to ours of each task and peer, with a mark for the goal."""
    bars = [
        (f"{result['name']}\nagainst {peer}", ratio, result["goals"].get(peer))
        for group in figures.values()
        for result in group["results"]
        if result.get("of") is None
        for peer, ratio in result["ratios"].items()
    ]
    figure = Figure(figsize=(8, 1 + 0.45 * len(bars)), layout="constrained")
    axes = figure.subplots()
    names, ratios, goals = zip(*bars[::-1], strict=True) if bars else ((), (), ())
    axes.barh(names, [min(ratio, LONGEST) for ratio in ratios], color=COLOURS[0])
    for place, goal in enumerate(goals):
        if goal is not None:
            axes.plot([goal, goal], [place - 0.4, place + 0.4], color=COLOURS[1], linewidth=2)
    for place, (ratio, goal) in enumerate(zip(ratios, goals, strict=True)):
        end = min(ratio, LONGEST)
        hidden = goal is not None and end < goal < end + A_NUMBER
        axes.text(goal if hidden else end, place, f" {ratio:.2f}", va="center", fontsize=8)
    axes.set_xlim(0, 1.1 * LONGEST)
    axes.margins(y=0.01)
    axes.axvline(1, color="#888888", linewidth=1)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("times as long as flava (or as much memory); orange: the goal")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def growth_chart(results: Sequence[Result]) -> Figure:
    """Seconds over the quantity that is varied, a line for each contender, on logarithmic axes."""
    kinds = list(dict.fromkeys(result.of for result in results))
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        found = [result for result in results if result.of == kind]
        sizes = [result.size for result in found]
        for contender, colour in zip(found[0].contenders, COLOURS, strict=False):
            seconds = [result.contenders[contender].median for result in found]
            axes.plot(sizes, seconds, "o-", color=colour, label=contender)
        axes.set(xscale="log", yscale="log", xlabel=kind, ylabel="seconds")
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure

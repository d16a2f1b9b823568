"""`flava plan`: what a run needs of some GPUs, before anybody pays for them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from flava.cli.train import recipe_choice
from flava.core.files import write_atomically
from flava.planning.plan import Hardware, Plan, StepPlan
from flava.planning.plan import plan as planned
from flava.training.run import Run

Figure = Callable[[StepPlan], float]


def plan(
    run: Run,
    gpus: int = 8,
    gpu: str = "h100",
    utilisation: float = 0.4,
    output: Path | None = None,
) -> None:
    """Tell what a recipe needs of some GPUs: memory, operations, messages and days.

    Args:
        run: The recipe.
        gpus: How many GPUs.
        gpu: Which: a100-40gb, a100, h100, h200 or l40s.
        utilisation: Share of their peak that they reach: "mfu" in a run's metrics, if there is one.
        output: Also write all figures to this file, as JSON.
    """
    found = planned(run, Hardware(gpus=gpus, gpu=gpu, utilisation=utilisation))
    Console().print(shown(found))
    if output:
        write_atomically(output, json.dumps(as_json(found), indent=2).encode() + b"\n")
    if misfits := found.misfits():
        raise ValueError("this does not fit:\n  " + "\n  ".join(misfits))


plan.__annotations__["run"] = recipe_choice()


def as_json(found: Plan) -> dict[str, object]:
    """All figures: bytes, operations, seconds, days."""
    return {
        **asdict(found),
        "operations": found.mean(lambda each: each.operations),
        "received": found.mean(lambda each: sum(each.received.values())),
        "days": found.days,
    }


def shown(found: Plan) -> Group:
    """For a terminal: a column for each kind of batch, and what the figures rest on."""
    given, kinds = found.given, found.updates.values()
    table = Table(
        title=f"{found.recipe} on {given.gpus} {given.gpu}, {found.parallel}: each GPU's part",
        title_style="",
        caption=f"{found.max_steps:,} updates: {found.days:.3g} days",
    )
    table.add_column("an update of", no_wrap=True)
    for name in (*found.updates, "mixture"):
        table.add_column(name, justify="right")

    def row(name: str, figure: Figure, mixture: str = "") -> None:
        table.add_row(name, *(f"{figure(each):,.3g}" for each in kinds), mixture)

    def mean(name: str, figure: Figure) -> None:
        row(name, figure, f"{found.mean(figure):,.3g}")

    row("samples", lambda each: each.samples)
    row("share of updates", lambda each: each.share)
    table.add_section()
    for part in parts(each.memory for each in kinds):
        row(f"{part}, GB", lambda each, part=part: each.memory.get(part, 0) / 1e9)
    row("memory, GB", lambda each: sum(each.memory.values()) / 1e9, f"of {found.usable / 1e9:.3g}")
    table.add_section()
    mean("TFLOP", lambda each: each.operations / 1e12)
    for what in parts(each.received for each in kinds):
        mean(f"{what} received, GB", lambda each, what=what: each.received.get(what, 0) / 1e9)
    mean("computing, s", lambda each: each.computing)
    mean("exchanging, s", lambda each: each.exchanging)
    return Group(table, *(f"- {each}" for each in found.assumptions))


def parts(figures: Iterable[Mapping[str, float]]) -> list[str]:
    """All names that some of them have, in their order."""
    return list(dict.fromkeys(name for each in figures for name in each))

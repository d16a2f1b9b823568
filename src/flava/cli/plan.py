"""`flava plan`: estimates what a run needs on given GPUs, before anybody pays for them."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from flava.cli.train import recipe_choice
from flava.core.files import write_atomically
from flava.planning.plan import Hardware, Plan, StepPlan
from flava.planning.plan import plan as plan_run
from flava.training.run import Run

StepFigure = Callable[[StepPlan], float]
"""One number of a step."""


def plan(
    run: Run,
    gpus: int = 8,
    gpu: str = "h100",
    utilisation: float = 0.4,
    output: Path | None = None,
) -> None:
    """Estimate the memory, operations, communication and days that a recipe needs on GPUs.

    The exit status is 1 if the run does not fit.

    Args:
        run: The recipe.
        gpus: Number of GPUs.
        gpu: Type of the GPUs: a100-40gb, a100, h100, h200 or l40s.
        utilisation: Share of their peak speed that the GPUs reach. The metrics of a similar run
            show it as "mfu".
        output: Also write all figures to this file, as JSON.
    """
    estimate = plan_run(run, Hardware(gpus=gpus, gpu=gpu, utilisation=utilisation))
    Console().print(_table(estimate))
    if output:
        write_atomically(output, json.dumps(_as_json(estimate), indent=2).encode() + b"\n")
    if misfits := estimate.misfits():
        raise ValueError("this does not fit:\n  " + "\n  ".join(misfits))


plan.__annotations__["run"] = recipe_choice()


def _as_json(estimate: Plan) -> dict[str, object]:
    """All figures: bytes, operations, seconds, days."""
    return {
        **asdict(estimate),
        "operations": estimate.mean(lambda step: step.operations),
        "received": estimate.mean(lambda step: sum(step.received.values())),
        "days": estimate.days,
    }


def _table(estimate: Plan) -> Group:
    """A column for each kind of batch and one for the mixture; below it the assumptions."""
    hardware, steps = estimate.given, estimate.updates.values()
    table = Table(
        title=f"{estimate.recipe} on {hardware.gpus} {hardware.gpu}, {estimate.parallel}: each "
        "GPU's part",
        title_style="",
        caption=f"{estimate.max_steps:,} steps: {estimate.days:.3g} days",
    )
    table.add_column("a step of", no_wrap=True)
    for name in (*estimate.updates, "mixture"):
        table.add_column(name, justify="right")

    def row(name: str, figure: StepFigure, mixture: str = "") -> None:
        table.add_row(name, *(f"{figure(step):,.3g}" for step in steps), mixture)

    def row_with_mean(name: str, figure: StepFigure) -> None:
        row(name, figure, f"{estimate.mean(figure):,.3g}")

    row("samples", lambda step: step.samples)
    row("share of steps", lambda step: step.share)
    table.add_section()
    for part in _names(step.memory for step in steps):
        row(f"{part}, GB", lambda step, part=part: step.memory.get(part, 0) / 1e9)
    usable = f"of {estimate.usable / 1e9:.3g}"
    row("memory, GB", lambda step: sum(step.memory.values()) / 1e9, usable)
    table.add_section()
    row_with_mean("TFLOP", lambda step: step.operations / 1e12)
    for what in _names(step.received for step in steps):
        row_with_mean(
            f"{what} received, GB", lambda step, what=what: step.received.get(what, 0) / 1e9
        )
    row_with_mean("computing, s", lambda step: step.computing)
    row_with_mean("exchanging, s", lambda step: step.exchanging)
    return Group(table, *(f"- {each}" for each in estimate.assumptions))


def _names(figures: Iterable[Mapping[str, float]]) -> list[str]:
    """The keys of all mappings, each once, in their order."""
    return list(dict.fromkeys(name for each in figures for name in each))

"""The trainings of `flava reproduce`: the stages and columns of Table C.1, for each seed.

A trial is a recipe's run in its own folder, initialized from the stages of the same seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flava.objectives import DinoObjectiveConfig
from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS, TINY
from flava.training.checkpoint import last_checkpoint, step_name
from flava.training.run import Run

STAGES = ("image-dino", "image-beit", "text-mlm")
"""Recipes whose weights columns start from, the slowest first, so that none runs alone for long."""

QUICK = 10
"""With `--quick`, a run makes one step where its recipe makes this many."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The training of one recipe with one seed."""

    name: str
    """The recipe's name without "-tiny": one of `STAGES`, or a key of `COLUMNS`."""
    run: Run

    @property
    def recipe(self) -> str:
        return self.name + TINY.suffix

    @property
    def folder(self) -> Path:
        return self.run.output_dir

    @property
    def is_trained(self) -> bool:
        """Whether the last step was made."""
        last = last_checkpoint(self.folder)
        return last is not None and last.resolve().name == step_name(self.run.max_steps)

    def overrides(self) -> Iterator[str]:
        """Arguments of `flava train` that turn the recipe into this run."""
        recipe, run = RECIPES[self.recipe](), self.run
        yield from ("--output-dir", str(run.output_dir), "--seed", str(run.seed))
        for field, source in run.init.given.items():
            if source != getattr(recipe.init, field):
                yield from (f"--init.{field}", source)
        if run.max_steps != recipe.max_steps:
            yield from ("--max-steps", str(run.max_steps))
            yield from ("--schedule.warmup-steps", str(run.schedule.warmup_steps))
            yield from ("--validate-every", str(run.validate_every))
            yield from ("--checkpoint-every", str(run.checkpoint_every))
            if isinstance(run.objective, DinoObjectiveConfig):
                yield from ("--objective.epoch-steps", str(run.objective.epoch_steps))


def trials(names: tuple[str, ...], folder: Path, seed: int, *, quick: bool) -> list[Trial]:
    """The trials of some stages or columns with one seed.

    Args:
        names: Stages or columns.
        folder: The folder of the reproduction.
        seed: The runs' seed. Their weights come from stages of the same seed.
        quick: Shorten the runs.
    """
    parent = seed_folder(folder, seed)
    found = []
    for name in names:
        run = RECIPES[name + TINY.suffix]()
        if quick:
            run = _shortened(run)
        stages = {
            field: str(parent / stage)
            for field, source in run.init.given.items()
            if (stage := Path(source).name.removesuffix(TINY.suffix)) in STAGES
        }
        run = replace(
            run, seed=seed, output_dir=parent / name, init=replace(run.init, **stages), resume=True
        )
        found.append(Trial(name=name, run=run))
    return found


def trained_columns() -> tuple[str, ...]:
    """The columns of Table C.1 that have a recipe, the slowest first."""
    return tuple(sorted(COLUMNS, key=lambda name: (COLUMNS[name] < 7, -COLUMNS[name])))


def seed_folder(folder: Path, seed: int) -> Path:
    """The folder that holds the runs of a seed."""
    return folder / f"seed-{seed}"


def _shortened(run: Run) -> Run:
    """The run with a `QUICK`-th of its steps, and of every field that is counted in steps."""
    objective = run.objective
    if isinstance(objective, DinoObjectiveConfig):
        objective = replace(objective, epoch_steps=-(-objective.epoch_steps // QUICK))
    steps = -(-run.max_steps // QUICK)
    return replace(
        run,
        max_steps=steps,
        validate_every=steps,
        checkpoint_every=steps,
        schedule=replace(run.schedule, warmup_steps=run.schedule.warmup_steps // QUICK),
        objective=objective,
    )

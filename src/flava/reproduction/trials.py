"""What `flava reproduce` trains: the stages and columns of Table C.1 at one size, for each seed.

A trial is a recipe's run in a folder of its own, begun from the stages of its own seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flava.objectives import DinoObjectiveConfig
from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS
from flava.training.checkpoint import last_checkpoint, step_name
from flava.training.run import Run

STAGES = ("image-dino", "image-beit", "text-mlm")
"""What columns start from: the costliest first, so that the last does not run alone for long."""

QUICK = 10
"""`--quick` makes one update where the recipes make so many."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, of one recipe with one seed."""

    name: str
    """The recipe without the suffix of its scale: a stage, or a key of `COLUMNS`."""
    recipe: str
    run: Run

    @property
    def folder(self) -> Path:
        return self.run.output_dir

    @property
    def is_trained(self) -> bool:
        """Whether its last update was made."""
        last = last_checkpoint(self.folder)
        return last is not None and last.resolve().name == step_name(self.run.max_steps)

    def changes(self) -> Iterator[str]:
        """The trial's difference from its recipe, as arguments of `flava train`."""
        whole, run = RECIPES[self.recipe](), self.run
        yield from ("--output-dir", str(run.output_dir), "--seed", str(run.seed))
        for field, source in run.init.given.items():
            if source != getattr(whole.init, field):
                yield from (f"--init.{field}", source)
        if run.max_steps != whole.max_steps:
            yield from ("--max-steps", str(run.max_steps))
            yield from ("--schedule.warmup-steps", str(run.schedule.warmup_steps))
            yield from ("--validate-every", str(run.validate_every))
            yield from ("--checkpoint-every", str(run.checkpoint_every))
            if isinstance(run.objective, DinoObjectiveConfig):
                yield from ("--objective.epoch-steps", str(run.objective.epoch_steps))


def trials(
    names: tuple[str, ...], suffix: str, folder: Path, seed: int, quick: bool
) -> list[Trial]:
    """Trials of these recipes with one seed, below ``folder``."""
    home = home_of(folder, seed)
    shorten: Callable[[Run], Run] = shortened if quick else lambda run: run
    found = []
    for name in names:
        recipe = f"{name}{suffix}"
        run = shorten(RECIPES[recipe]())
        given = {
            field: str(home / stage)
            for field, source in run.init.given.items()
            if (stage := Path(source).name.removesuffix(suffix)) in STAGES
        }
        run = replace(
            run, seed=seed, output_dir=home / name, init=replace(run.init, **given), resume=True
        )
        found.append(Trial(name=name, recipe=recipe, run=run))
    return found


def columns() -> tuple[str, ...]:
    """The columns that are trained, the costliest first."""
    return tuple(sorted(COLUMNS, key=lambda name: (COLUMNS[name] < 7, -COLUMNS[name])))


def home_of(folder: Path, seed: int) -> Path:
    """Where the trials of a seed are."""
    return folder / f"seed-{seed}"


def shortened(run: Run) -> Run:
    """The run with a `QUICK`-th of its updates, and of all that is counted in updates."""
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

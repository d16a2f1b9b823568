"""`flava recipes`: lists the recipes that `flava train` knows, or shows one of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS, RELEASED
from flava.training.run import RUN, Run


@dataclass(frozen=True, kw_only=True)
class List:
    """List all recipes: what each trains, on which data, and from which weights it starts."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show all fields of a recipe as JSON."""

    name: tyro.conf.Positional[str]
    """The name of the recipe."""


Action = (
    Annotated[List, tyro.conf.subcommand("list")] | Annotated[Show, tyro.conf.subcommand("show")]
)


def recipes(action: Annotated[Action, tyro.conf.arg(name="")] = List()) -> None:
    """List the recipes of flava train, or show one of them with all of its fields."""
    if isinstance(action, Show):
        print(_recipe_json(action.name))
    else:
        Console().print(_recipe_table())


def _recipe_json(name: str) -> str:
    """Every field of a recipe's run.

    Raises:
        ValueError: there is no such recipe.
    """
    if name == RELEASED:
        raise ValueError(
            f"{RELEASED} is OpenAI's released CLIP, which is evaluated only: flava evaluate "
            f"openai/clip-vit-base-patch16 --output-dir runs/{RELEASED}"
        )
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RUN.dump_json(RECIPES[name](), indent=2).decode()


def _recipe_table() -> Table:
    """A row for each recipe."""
    table = Table(title="Recipes of flava train", title_style="")
    for heading in ("recipe", "trains", "on", "from"):
        table.add_column(heading, overflow="fold")
    for heading in ("steps", "column"):
        table.add_column(heading, justify="right")
    for name, recipe in RECIPES.items():
        run = recipe()
        column = COLUMNS.get(name.removesuffix("-tiny"), "")
        about = (recipe.__doc__ or "").splitlines()[0].removeprefix("Small twin: ")
        table.add_row(
            name, about, _data_of(run), _sources_of(run), f"{run.max_steps:,}", str(column)
        )
    released = "OpenAI's CLIP ViT-B/16, evaluated only."
    table.add_row(RELEASED, released, "OpenAI's pairs", "released weights", "", "14")
    table.caption = "column: of Table C.1. NAME-tiny: a small twin"
    return table


def _data_of(run: Run) -> str:
    """The folders of the shards, with the weight of each source if there are several."""
    named = {
        name: " + ".join(dict.fromkeys(_folder_of(shard) for shard in source.shards))
        for name, source in run.data.sources.items()
    }
    if len(named) == 1:
        return next(iter(named.values()))
    return ", ".join(f"{run.data.weights[name]:.2f} {where}" for name, where in named.items())


def _folder_of(shard: str) -> str:
    """A short name of a shard's folder: "pmd" for "data/pmd/*/*.tar", "embedded:pairs" for a shard
    of the embedded corpus."""
    folder = Path(shard).parent
    while "*" in folder.name:
        folder = folder.parent
    return str(folder) if shard.startswith("embedded:") else folder.name


def _sources_of(run: Run) -> str:
    """The runs that the model's parts are initialised from, or "scratch"."""
    given = (source.removeprefix("runs/") for source in run.init.given.values())
    return ", ".join(given) or "scratch"

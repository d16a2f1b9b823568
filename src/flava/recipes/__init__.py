"""Recipes: functions that return a whole run. A variant edits its parent's."""

from collections.abc import Callable

from flava.recipes.columns import COLUMN_RECIPES
from flava.recipes.tiny import codebook_tiny, flava_tiny
from flava.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "flava-tiny": flava_tiny,
    "codebook-tiny": codebook_tiny,
    **COLUMN_RECIPES,
}
"""Recipes by the names that `flava train` knows them by."""

"""Recipes: functions that return the configuration of a run. A variant changes another recipe's.

Each module lists its own in ``RECIPES``.
"""

from collections.abc import Callable

from flava.recipes import columns, dino, tiny, unimodal
from flava.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    **tiny.RECIPES,
    **unimodal.RECIPES,
    **columns.RECIPES,
    **dino.RECIPES,
}
"""All recipes, by the names that `flava train` knows them by."""

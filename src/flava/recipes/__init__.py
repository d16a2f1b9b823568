"""Recipes: functions that return a whole run. A variant edits its parent's."""

from collections.abc import Callable

from flava.recipes.dino import image_dino, image_dino_tiny
from flava.recipes.tiny import codebook_tiny, flava_tiny
from flava.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "flava-tiny": flava_tiny,
    "codebook-tiny": codebook_tiny,
    "image-dino": image_dino,
    "image-dino-tiny": image_dino_tiny,
}
"""Recipes by the names that `flava train` knows them by."""

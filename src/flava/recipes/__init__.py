"""Recipes: functions that return a whole run. A variant edits its parent's."""

from collections.abc import Callable

from flava.recipes import unimodal
from flava.recipes.columns import COLUMN_RECIPES
from flava.recipes.dino import image_dino, image_dino_tiny
from flava.recipes.tiny import codebook_tiny, flava_tiny
from flava.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "flava-tiny": flava_tiny,
    "codebook-tiny": codebook_tiny,
    "codebook": unimodal.codebook,
    "mim": unimodal.mim,
    "mim-tiny": unimodal.mim_tiny,
    "mlm": unimodal.mlm,
    "mlm-tiny": unimodal.mlm_tiny,
    "text-mlm": unimodal.text_mlm,
    "text-mlm-tiny": unimodal.text_mlm_tiny,
    "image-beit": unimodal.image_beit,
    "image-beit-tiny": unimodal.image_beit_tiny,
    **COLUMN_RECIPES,
    "image-dino": image_dino,
    "image-dino-tiny": image_dino_tiny,
}
"""Recipes by the names that `flava train` knows them by."""

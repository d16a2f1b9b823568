"""Zero-shot classification with the class names and templates that CLIP publishes.

``prompts.json`` holds them, with their source, their licence and what was changed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from flava.evaluation.shared_features import prompted_class_embeddings
from flava.inference.features import FeatureExtractor
from flava.inference.zero_shot import classify

FILE = Path(__file__).with_name("prompts.json")


@dataclass(frozen=True)
class Prompts:
    """The names of each class, in the order of the labels, and the templates around them."""

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]


def _read_prompts(path: Path) -> dict[str, Prompts]:
    """The prompts of each data set."""
    stored = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    return {
        name: Prompts(
            tuple(tuple(names) for names in each["classes"]),
            tuple(each["templates"]),
        )
        for name, each in stored.items()
    }


PROMPTS = _read_prompts(FILE)


def classify_with_prompts(
    extractor: FeatureExtractor,
    features: Float[np.ndarray, "images width"],
    prompts: Prompts,
    *,
    title: str | None = None,
) -> Int[np.ndarray, " images"]:
    """The class of each image whose prompts are nearest to it in the contrastive space.

    ``title`` is that of the progress bar of the prompts; without it none is shown.
    """
    classes = prompted_class_embeddings(extractor, prompts.classes, prompts.templates, title=title)
    return classify(extractor.project_images(features), classes).numpy()

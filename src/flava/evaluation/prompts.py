"""Zero-shot classification with the class names and templates that CLIP publishes.

``prompts.json`` holds them, with their source, their licence and what was changed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from flava.core.distributed import compute_across_ranks
from flava.evaluation.features import evaluating, progress
from flava.evaluation.image_features import FeatureExtractor
from flava.inference import zero_shot

FILE = Path(__file__).with_name("prompts.json")


@dataclass(frozen=True)
class Prompts:
    """The names of each class, in the order of the labels, and the templates around them."""

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]


def read_prompts(path: Path) -> dict[str, Prompts]:
    """The prompts of each data set."""
    stored = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    return {
        name: Prompts(
            tuple(tuple(names) for names in each["classes"]),
            tuple(each["templates"]),
        )
        for name, each in stored.items()
    }


PROMPTS = read_prompts(FILE)


def classify_with_prompts(
    extractor: FeatureExtractor, features: Float[np.ndarray, "images width"], prompts: Prompts
) -> Int[np.ndarray, " images"]:
    """The class of each image whose prompts are nearest to it in the contrastive space."""
    classes = class_vectors(extractor, prompts)
    return zero_shot.classify(extractor.project(features), classes).numpy()


def class_vectors(
    extractor: FeatureExtractor, prompts: Prompts
) -> Float[Tensor, "classes projection"]:
    """A unit vector for each class, of whose prompts the ranks encode a part each."""
    model, settings = extractor.model, extractor.settings
    device = next(model.parameters()).device

    def vectors(places: range) -> Float[Tensor, "classes width"]:
        group = prompts.classes[places.start : places.stop]
        advance(len(group))
        return zero_shot.class_embeddings(extractor.embed, group, prompts.templates)

    size = max(1, settings.batch_size // len(prompts.templates))
    with (
        evaluating(model, settings.precision),
        progress(extractor.shown_as("classes"), len(prompts.classes)) as advance,
    ):
        return compute_across_ranks(len(prompts.classes), size, vectors, device)

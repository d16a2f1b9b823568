"""Zero-shot classification with the class names and templates that CLIP publishes.

``prompts.json`` holds them, with their source, their licence and what was changed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flava.evaluation import zero_shot
from flava.evaluation.classes import ImageClass
from flava.evaluation.held_out import Texts
from flava.evaluation.outputs import progress
from flava.evaluation.subject import evaluating
from flava.evaluation.suite.vision.features import Extractor
from flava.model.flava import unit_length

FILE = Path(__file__).with_name("prompts.json")


@dataclass(frozen=True)
class Prompts:
    """The names of each class, in the order of the labels, and the templates around them."""

    classes: tuple[ImageClass, ...]
    templates: tuple[str, ...]


def read_prompts(path: Path) -> dict[str, Prompts]:
    """The prompts of each data set."""
    stored = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    return {
        name: Prompts(
            tuple(ImageClass(tuple(names), ()) for names in each["classes"]),
            tuple(each["templates"]),
        )
        for name, each in stored.items()
    }


PROMPTS = read_prompts(FILE)


def classify(
    extractor: Extractor, features: Float[np.ndarray, "images width"], prompts: Prompts
) -> Int[np.ndarray, " images"]:
    """The class of each image whose prompts are nearest to it in the contrastive space.

    The projections are computed in 32 bits from the image encoder's features, which are kept.
    """
    model, settings = extractor.model, extractor.settings
    device = next(model.parameters()).device
    total = len(prompts.templates) * sum(len(each.names) for each in prompts.classes)
    with evaluating(model, settings.precision), progress("prompts", total) as advance:

        def embed(texts: list[str]) -> Float[Tensor, "texts width"]:
            embedded = []
            for start in range(0, len(texts), settings.batch_size):
                part = texts[start : start + settings.batch_size]
                made = Texts(part, part, model.config)
                states = model.encode_text(made.ids.to(device), made.real)
                embedded.append(states.float().cpu())
                advance(len(part))
            return torch.cat(embedded)

        classes = zero_shot.class_embeddings(embed, prompts.classes, prompts.templates)
    with torch.inference_mode():
        projected = model.image_projection(torch.from_numpy(features).to(device))
    return zero_shot.classify(unit_length(projected).cpu(), classes).numpy()

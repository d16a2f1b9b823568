"""Zero-shot classification: the class whose prompts are most similar to the image (CLIP's way)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from flava.evaluation.embedded_data import ImageClass

Embed = Callable[[list[str]], Float[Tensor, "texts width"]]
"""Texts -> unit vectors."""


def class_embeddings(
    embed: Embed, classes: Sequence[ImageClass], templates: Sequence[str]
) -> Float[Tensor, "classes width"]:
    """A unit vector a class: the mean of the unit vectors of all its names in all templates."""
    prompts = [[t.format(name) for name in each.names for t in templates] for each in classes]
    embedded = embed([prompt for group in prompts for prompt in group])
    means = [part.mean(dim=0) for part in embedded.split([len(group) for group in prompts])]
    return functional.normalize(torch.stack(means), dim=-1)


def classify(
    images: Float[Tensor, "images width"], classes: Float[Tensor, "classes width"]
) -> Int[Tensor, " images"]:
    """The index of the most similar class."""
    return (images @ classes.T).argmax(dim=1)


def confusion(
    truth: Int[Tensor, " images"], predicted: Int[Tensor, " images"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Counts: rows are the true classes, columns the predicted ones."""
    return torch.bincount(truth * classes + predicted, minlength=classes**2).view(classes, classes)

"""Counts the tokens of a batch and the operations of a step on it, for tokens/s and MFU."""

from dataclasses import fields

from flava.core.batch import Batch, Inputs
from flava.objectives.objective import Work
from flava.planning.costs import cost_of, fake_batch, fake_objective
from flava.training.run import Run

CODE_SIZE = 8
"""Side of the square of pixels that the dVAE encodes as one code."""
IMAGES = {"pixels", "global_crops", "local_crops"}
"""The fields of batches that hold what the image encoder reads."""


class WorkCounter:
    """A batch -> its `Work`. Operations are counted on the first batch of each kind only."""

    def __init__(self, run: Run) -> None:
        self.run = run
        image = getattr(run.model, "image", None)
        self.patch = CODE_SIZE if image is None else image.patch_size
        self.operations: dict[str, int] = {}

    def __call__(self, batch: Batch) -> Work:
        if batch.kind not in self.operations:
            # What is computed twice does not count as work, so neither activation checkpointing nor
            # the additional encoding of accumulated pairs is part of it.
            objective = fake_objective(self.run)
            cost = cost_of(objective, fake_batch(batch), self.run.precision.dtype)
            self.operations[batch.kind] = cost.operations
        return Work(tokens=_tokens_of(batch, self.patch), operations=self.operations[batch.kind])


def _tokens_of(batch: Batch | Inputs, patch: int) -> int:
    """The patches of all images and the tokens of all texts, without padding and the images' [CLS].

    Each counts once, however often the objectives encode it.
    """
    count = 0
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Batch | Inputs):
            count += _tokens_of(value, patch)
        elif field.name == "attention_mask":
            count += int(value.sum())
        elif field.name in IMAGES:
            count += value.numel() // (3 * patch**2)
    return count

"""What a batch of a run asks for: tokens, and the operations that the model needs for them."""

from dataclasses import fields

from flava.core.batch import Batch, Inputs
from flava.objectives.objective import Work
from flava.planning.costs import cost_of, outline_of, outlined_objective
from flava.training.run import Run

CODE_SIZE = 8
"""Pixels a side that the dVAE makes a code of."""
IMAGES = {"pixels", "global_crops", "local_crops"}
"""Fields of batches that the image encoder reads."""


class Counted:
    """A batch -> its work. Operations are counted once for each kind of batch, on its first."""

    def __init__(self, run: Run) -> None:
        self.run = run
        image = getattr(run.model, "image", None)
        self.patch = CODE_SIZE if image is None else image.patch_size
        self.operations: dict[str, int] = {}

    def __call__(self, batch: Batch) -> Work:
        if batch.kind not in self.operations:
            # Without checkpointed blocks, and without the encoding before contrast where several
            # batches count as one: what is computed twice does not count as work.
            cost = cost_of(
                outlined_objective(self.run), outline_of(batch), self.run.precision.dtype
            )
            self.operations[batch.kind] = cost.operations
        return Work(tokens=tokens_of(batch, self.patch), operations=self.operations[batch.kind])


def tokens_of(batch: Batch | Inputs, patch: int) -> int:
    """Patches of all images and tokens of all texts, without padding and [CLS] of images; each
    once, however often the objectives read it."""
    found = 0
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Batch | Inputs):
            found += tokens_of(value, patch)
        elif field.name == "attention_mask":
            found += int(value.sum())
        elif field.name in IMAGES:
            found += value.numel() // (3 * patch**2)
    return found

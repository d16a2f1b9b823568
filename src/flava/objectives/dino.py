"""DINO: the student predicts, from any crop, what the teacher sees in another (Caron et al. 2021).

The loss is the cross-entropy of the student's distribution under the teacher's, the mean over all
pairs of a global crop (the teacher's) and any other crop (the student's). It is reported
as two losses: the entropy of the teacher, which has no gradient, and the KL divergence of the
student from the teacher. They reveal a collapse: if all images get the same output, the entropy is
0; if all outputs are equally likely, the entropy is the logarithm of their number, and the
divergence is 0.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from flava.core.batch import Batch, CropBatch
from flava.core.constraints import Fraction
from flava.core.distributed import mean_over_ranks
from flava.models import Dino
from flava.models.packing import select_masked
from flava.objectives.losses import LossOutput
from flava.objectives.objective import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class DinoObjectiveConfig(ObjectiveConfig):
    """Temperatures, center, teacher and frozen epochs; the defaults are those of the ViT-B/16.

    They are its published arguments (``dino_vitbase16_pretrain/args.txt``) or, where these do not
    name one, the defaults of ``main_dino.py``. As there, a setting that is scheduled in epochs
    changes between two epochs, not within one.
    """

    epoch_steps: PositiveInt = 1251
    """Steps in an epoch. The default is ImageNet-1k's: 1,281,167 images make 1,251 whole batches of
    1,024."""
    student_temperature: PositiveFloat = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: PositiveFloat = 0.07
    """Temperature of the teacher's softmax after its warm-up. It is lower than the student's, which
    sharpens the targets."""
    first_teacher_temperature: PositiveFloat = 0.04
    """Temperature of the teacher's softmax in the first epoch, from which it rises linearly."""
    temperature_epochs: NonNegativeInt = 50
    """Epochs of this warm-up; the last of them has the final temperature."""
    center_momentum: Fraction = 0.9
    """Momentum of the center, the moving average of the teacher's outputs."""
    teacher_momentum: Fraction = 0.996
    """Momentum of the teacher, the moving average of the student, at the first step. It rises to 1
    along half a cosine."""
    freeze_epochs: NonNegativeInt = 3
    """Number of first epochs in which the last layer of the student's head is not trained."""

    def teacher_temperature_at(self, step: int) -> float:
        """The teacher's temperature at step number ``step`` (from 0)."""
        warm, first = self.teacher_temperature, self.first_teacher_temperature
        epoch, epochs = step // self.epoch_steps, self.temperature_epochs
        return warm if epoch >= epochs else first + (warm - first) * epoch / max(1, epochs - 1)

    def momentum_at(self, step: int, max_steps: int) -> float:
        """The teacher's momentum at step number ``step`` (from 0) of ``max_steps``."""
        cosine = (1 + math.cos(math.pi * step / max_steps)) / 2
        return 1 - (1 - self.teacher_momentum) * cosine


class DinoObjective:
    """A batch of crops -> entropy and divergence, in nats; ``max_steps`` are the run's steps."""

    def __init__(self, config: DinoObjectiveConfig, model: Dino, max_steps: int) -> None:
        self.config, self.model, self.max_steps = config, model, max_steps
        self.outputs: list[Float[Tensor, " outputs"]] = []
        """The teacher's mean output in each batch since the last step."""
        self.after_step(0)

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        if not isinstance(batch, CropBatch):
            raise ValueError(
                f"DINO is trained on crops, but the data yields a {type(batch).__name__}: set "
                "data.images and data.crops, and data.pairs and data.text to None"
            )
        model, student = self.model, self.model.student
        with torch.no_grad():
            teacher_logits = model(batch.global_crops).float()
        self.outputs.append(teacher_logits.mean((0, 1)))
        logits = [
            student(crops, frozen=self.frozen)
            for crops in (batch.global_crops, batch.local_crops)
            if len(crops)
        ]
        targets = ((teacher_logits - model.center) / self.temperature).softmax(dim=-1)
        predicted = torch.cat(logits).float() / self.config.student_temperature
        entropy = _mean_entropy(targets)
        divergence = _cross_entropy(targets, predicted.log_softmax(dim=-1)) - entropy
        return {"entropy": LossOutput(entropy), "divergence": LossOutput(divergence)}

    def after_step(self, step: int) -> None:
        """Update the center and the teacher; set temperature and freeze for the next step.

        If there was no batch since the last call (at the start, or when a run is resumed), center
        and teacher stay.
        """
        config, model = self.config, self.model
        if self.outputs:
            output = mean_over_ranks(torch.stack(self.outputs).mean(0))
            if output.isfinite().all():  # else the step was skipped, and so is its batch
                model.center.lerp_(output, 1 - config.center_momentum)
            model.follow(config.momentum_at(step - 1, self.max_steps))
            self.outputs.clear()
        self.temperature = config.teacher_temperature_at(step)
        self.frozen = step < config.freeze_epochs * config.epoch_steps


def _mean_entropy(probabilities: Float[Tensor, "crops batch outputs"]) -> Float[Tensor, ""]:
    """The mean entropy of the distributions."""
    return torch.special.entr(probabilities).sum(-1).mean()


def _cross_entropy(
    targets: Float[Tensor, "global batch outputs"],
    log_predicted: Float[Tensor, "crops batch outputs"],
) -> Float[Tensor, ""]:
    """The mean over all pairs of a target and a prediction from another crop of the same image.

    The first predictions are from the same crops as the targets.
    """
    with torch.autocast(
        targets.device.type, enabled=False
    ):  # which would compute these products in 16 bits
        pairs = -torch.einsum("tbo,pbo->tp", targets, log_predicted) / targets.shape[1]
    same_crop = torch.eye(*pairs.shape, dtype=torch.bool)
    return select_masked(pairs, ~same_crop).mean()

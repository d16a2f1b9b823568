"""How the paper fine-tunes on pairs: one head and schedule for VQAv2, SNLI-VE and Hateful Memes."""

import math
from dataclasses import dataclass

from torch import nn

from flava.evaluation.suite.finetuning import TuningConfig
from flava.model import Clip, Flava
from flava.model.classifier import PAIR_HIDDEN_WIDTH
from flava.training.optimizer import OptimizerConfig
from flava.training.schedule import ScheduleConfig

BATCH_SIZE = 256
WEIGHT_DECAY = 1e-2
PRETRAINING_SIZE = 224
"""Pixels a side of the images in pretraining."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What differs between the tasks; the rest is the same for all (the paper's supplement)."""

    updates: int
    """Of `BATCH_SIZE` samples each."""
    warmup: int = 2000
    """Of them, those over which the learning rate rises; then it falls by a cosine."""
    lr: float
    image_size: int
    """Pixels a side, for a model that is pretrained on images of `PRETRAINING_SIZE`."""
    samples: int
    """Those of the official training split, by which updates are counted as epochs."""


def tuning(protocol: Protocol, model: nn.Module, samples: int, *, few: bool) -> TuningConfig:
    """The protocol for so many training samples. Gradients are not clipped: the paper names no
    clipping, and the trainer it was made with (MMF) clips none unless it is told to.

    With ``few`` of them, updates and warm-up shrink so that each is seen as often as it would be
    in the whole.

    Raises:
        ValueError: the model is neither a FLAVA nor a CLIP.
    """
    if not isinstance(model, Flava | Clip):
        raise ValueError(f"a {type(model).__name__} does not read pairs: give a FLAVA or a CLIP")
    image = model.config.image
    updates, warmup = protocol.updates, protocol.warmup
    if few:
        seen = protocol.updates * BATCH_SIZE / protocol.samples
        updates = math.ceil(seen * samples / min(BATCH_SIZE, samples))
        warmup = round(protocol.warmup / protocol.updates * updates)
    return TuningConfig(
        max_steps=updates,
        batch_size=BATCH_SIZE,
        optimizer=OptimizerConfig(lr=protocol.lr, weight_decay=WEIGHT_DECAY),
        schedule=ScheduleConfig(warmup_steps=warmup),
        hidden_width=PAIR_HIDDEN_WIDTH,
        image_size=in_proportion(protocol.image_size, image.image_size, image.patch_size),
    )


def in_proportion(size: int, pretrained: int, patch: int) -> int:
    """The image size that is to ``pretrained`` as ``size`` to 224, in whole patches: 480 for a base
    model where ``size`` is."""
    return max(1, round(size / PRETRAINING_SIZE * pretrained / patch)) * patch

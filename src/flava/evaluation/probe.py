"""The probe that training calls every few updates: quick, and never on test data."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from flava.evaluation.classes import CLASSES, TEMPLATES
from flava.evaluation.held_out import HeldOut, Split
from flava.evaluation.measures import VALIDATION, in_classes
from flava.evaluation.metrics import accuracy
from flava.evaluation.retrieval import ranks, recall
from flava.evaluation.subject import Subject, evaluating
from flava.evaluation.tasks import SPLITS
from flava.evaluation.zero_shot import class_embeddings, classify
from flava.model import Clip, ClipConfig, Flava, FlavaConfig
from flava.precision import Precision

BATCH_SIZE = 256

Probe = Callable[[nn.Module, int], dict[str, float]]


def zero_shot_probe(
    config: FlavaConfig | ClipConfig,
    *,
    splits: Mapping[str, Split] = SPLITS,
    precision: Precision = Precision.BF16,
) -> Probe:
    """(model, step) -> figures on the validation concepts in the trained styles.

    The first figure, ``zero_shot_accuracy``, chooses the best checkpoint. ``retrieval_r@5`` is the
    mean of both directions, among the validation concepts.

    Raises:
        FileNotFoundError, ValueError: as `HeldOut`; the data is read now, not in training.
    """
    held_out = HeldOut(splits, config, seed=0)
    pairs = held_out.pairs(VALIDATION)
    rows, truth = in_classes(pairs.subgroups)
    ids = pairs.concept_ids
    once = np.unique(ids, return_index=True)[1]
    assert len(pairs.pixels) == len(ids)  # decoded now, for all calls

    def probe(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        assert isinstance(model, Flava | Clip)
        subject = Subject(model, held_out, BATCH_SIZE)
        with evaluating(model, precision):
            images = subject.image_embeddings(VALIDATION)
            texts = subject.caption_embeddings(VALIDATION)
            classes = class_embeddings(subject.embed, CLASSES, TEMPLATES)
        # One caption a concept: six styles have the same one.
        texts = texts[once]
        both = [
            recall(ranks(images.numpy(), texts.numpy(), ids, ids[once]), k=5),
            recall(ranks(texts.numpy(), images.numpy(), ids[once], ids), k=5),
        ]
        return {
            "zero_shot_accuracy": accuracy(classify(images[rows], classes), truth),
            "retrieval_r@5": sum(both) / 2,
        }

    return probe

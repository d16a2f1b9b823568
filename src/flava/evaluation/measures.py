"""How a model is measured on one split, by its two encoders: the masked tasks are in `masked`."""

import numpy as np
import torch

from flava.evaluation.classes import CLASS_OF, CLASSES, TEMPLATES
from flava.evaluation.linear_probe import Labelled, fit_probe
from flava.evaluation.metrics import Measured, Outcome, accuracy, majority
from flava.evaluation.record import Confusion
from flava.evaluation.retrieval import RANKS, chance_recall, ranks, recall
from flava.evaluation.subject import PixelComponents, Subject
from flava.evaluation.zero_shot import class_embeddings, classify, confusion

PROBE_TRAIN, VALIDATION = "probe_train", "validation"
"""The splits that the linear probe is fitted on and its regularisation chosen on."""


def retrieval(subject: Subject, split: str) -> Outcome:
    """R@k both ways among all of the split's pairs, by cosine similarity."""
    ids = subject.held_out.pairs(split).concept_ids
    images = subject.image_embeddings(split).numpy()
    texts = subject.caption_embeddings(split).numpy()
    places = {
        "image_to_text": ranks(images, texts, ids, ids),
        "text_to_image": ranks(texts, images, ids, ids),
    }
    return Outcome(
        {
            f"{way}_r@{k}": Measured(
                recall(found, k), len(ids), {"chance": chance_recall(ids, ids, k)}
            )
            for way, found in places.items()
            for k in RANKS
        }
    )


def zero_shot(subject: Subject, split: str) -> Outcome:
    """Accuracy over ``CLASSES`` among the images that belong to one."""
    rows, truth = in_classes(subject.held_out.pairs(split).subgroups)
    classes = class_embeddings(subject.embed, CLASSES, TEMPLATES)
    predicted = classify(subject.image_embeddings(split)[rows], classes)
    counts = confusion(truth, predicted, len(CLASSES)).tolist()
    measured = Measured(accuracy(predicted, truth), len(truth), {"majority": majority(truth)})
    return Outcome(
        {"accuracy": measured},
        Confusion(
            split=split,
            classes=tuple(each.names[0] for each in CLASSES),
            counts=tuple(tuple(row) for row in counts),
        ),
    )


def in_classes(subgroups: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that belong to one of ``CLASSES``, and which.

    Raises:
        ValueError: none does.
    """
    rows = [i for i, subgroup in enumerate(subgroups) if subgroup in CLASS_OF]
    if not rows:
        raise ValueError(
            f"no image belongs to a class of zero-shot classification: their subgroups are "
            f"{sorted(set(subgroups))[:5]}, the classes' are {sorted(CLASS_OF)[:5]}, ..."
        )
    return torch.tensor(rows), torch.tensor([CLASS_OF[subgroups[row]] for row in rows])


def linear_probe(subject: Subject | PixelComponents, split: str) -> Outcome:
    """Accuracy in naming the group, of Unicode's, that an image belongs to."""
    if subject.probe is None:
        subject.probe = fit_probe(labelled(subject, PROBE_TRAIN), labelled(subject, VALIDATION))
    test = labelled(subject, split)
    counts = np.unique(test.labels, return_counts=True)[1]
    baselines = {"majority": float(counts.max() / counts.sum())}
    value = subject.probe.accuracy(test)
    return Outcome({"accuracy": Measured(value, len(test.labels), baselines)})


def labelled(subject: Subject | PixelComponents, split: str) -> Labelled:
    """A split's features with the groups of its images."""
    return Labelled(subject.features(split), np.array(subject.held_out.pairs(split).groups))

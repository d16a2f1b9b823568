"""How a model is measured on one split, by its two encoders: the masked tasks are in `masked`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A task: a linear probe of frozen features, fitted once and tested on several splits."""

    name: str
    labelled: Callable[[Any, str], Labelled]
    """A split's features with their labels."""
    train: str = PROBE_TRAIN
    validation: str = VALIDATION

    def __call__(self, subject: Subject | PixelComponents, split: str) -> Outcome:
        """Accuracy."""
        if self.name not in subject.probes:
            train, validation = (self.labelled(subject, s) for s in (self.train, self.validation))
            subject.probes[self.name] = fit_probe(train, validation)
        test = self.labelled(subject, split)
        counts = np.unique(test.labels, return_counts=True)[1]
        baselines = {"majority": float(counts.max() / counts.sum())}
        value = subject.probes[self.name].accuracy(test)
        return Outcome({"accuracy": Measured(value, len(test.labels), baselines)})


def image_groups(subject: Subject | PixelComponents, split: str) -> Labelled:
    """Images, and the groups of Unicode's that they belong to."""
    return Labelled(subject.features(split), np.array(subject.held_out.pairs(split).groups))


def digits(subject: Subject | PixelComponents, split: str) -> Labelled:
    """Images, and the digits they show."""
    return Labelled(subject.features(split), np.array(subject.held_out.pairs(split).field("digit")))


def caption_groups(subject: Subject, split: str) -> Labelled:
    """Canonical captions, and the groups of what they name."""
    pairs = subject.held_out.pairs(split)
    return Labelled(subject.text_features(pairs.captions), np.array(pairs.groups))


def parts_of_speech(subject: Subject, split: str) -> Labelled:
    """Dictionary texts, and whether they explain a noun, verb, adjective or adverb.

    Raises:
        ValueError: a text's key is not that of a synset.
    """
    texts = subject.held_out.texts(split)
    labels = [PART_OF_SPEECH.get(origin[:1]) for origin in texts.origins]
    if None in labels:
        raise ValueError(
            f"text {texts.origins[labels.index(None)]} of {split} is of no WordNet synset: its key "
            f"begins with none of {', '.join(PART_OF_SPEECH)}"
        )
    return Labelled(subject.text_features(texts), np.array(labels))


PART_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
"""The letter that WordNet's names of synsets begin with; "s" is a satellite adjective."""

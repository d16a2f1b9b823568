"""The evaluation tasks on the embedded corpus: which there are, and how each is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flava.evaluation import masked_tasks
from flava.evaluation.embedded_data import CLASS_OF, CLASSES, TEMPLATES, EmbeddedSplit
from flava.evaluation.embedded_features import EmbeddedFeatures, PixelComponents
from flava.evaluation.linear_probe import LabelledFeatures, fit_probe
from flava.evaluation.record import (
    Confusion,
    MetricValue,
    TaskMetrics,
    accuracy,
    confusion,
    majority,
)
from flava.evaluation.retrieval import RANKS, chance_recall, ranks, recall
from flava.inference.features import CONTRASTIVE_PARTS
from flava.inference.zero_shot import class_embeddings, classify

PROBE_TRAIN, VALIDATION = "probe_train", "validation"
"""The splits that the linear probe is fitted on and its regularisation chosen on."""


def _retrieval(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """R@k both ways among all of the split's pairs, by cosine similarity."""
    ids = features.corpus.pairs(split).concept_ids
    images = features.image_embeddings(split).numpy()
    texts = features.caption_embeddings(split).numpy()
    ranks_by_direction = {
        "image_to_text": ranks(images, texts, ids, ids),
        "text_to_image": ranks(texts, images, ids, ids),
    }
    return TaskMetrics(
        {
            f"{direction}_r@{k}": MetricValue(
                recall(right, k), len(ids), {"chance": chance_recall(ids, ids, k)}
            )
            for direction, right in ranks_by_direction.items()
            for k in RANKS
        }
    )


def _zero_shot(features: EmbeddedFeatures, split: str) -> TaskMetrics:
    """Accuracy over ``CLASSES`` among the images that belong to one."""
    rows, truth = in_classes(features.corpus.pairs(split).subgroups)
    classes = class_embeddings(features.embed, [each.names for each in CLASSES], TEMPLATES)
    predicted = classify(features.image_embeddings(split)[rows], classes)
    counts = confusion(truth, predicted, len(CLASSES)).tolist()
    value = MetricValue(accuracy(predicted, truth), len(truth), {"majority": majority(truth)})
    return TaskMetrics(
        {"accuracy": value},
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
class ProbeTask:
    """A task: a linear probe of frozen features, fitted once and tested on several splits."""

    name: str
    labelled: Callable[[Any, str], LabelledFeatures]
    """A split's features with their labels."""
    train: str = PROBE_TRAIN
    validation: str = VALIDATION

    def __call__(self, features: EmbeddedFeatures | PixelComponents, split: str) -> TaskMetrics:
        """Accuracy."""
        if self.name not in features.probes:
            train, validation = (self.labelled(features, s) for s in (self.train, self.validation))
            features.probes[self.name] = fit_probe(train, validation)
        test = self.labelled(features, split)
        counts = np.unique(test.labels, return_counts=True)[1]
        baselines = {"majority": float(counts.max() / counts.sum())}
        value = features.probes[self.name].accuracy(test)
        return TaskMetrics({"accuracy": MetricValue(value, len(test.labels), baselines)})


def _image_groups(features: EmbeddedFeatures | PixelComponents, split: str) -> LabelledFeatures:
    """Images, and the groups of Unicode's that they belong to."""
    return LabelledFeatures(features.features(split), np.array(features.corpus.pairs(split).groups))


def _digits(features: EmbeddedFeatures | PixelComponents, split: str) -> LabelledFeatures:
    """Images, and the digits they show."""
    return LabelledFeatures(
        features.features(split), np.array(features.corpus.pairs(split).field("digit"))
    )


def _caption_groups(features: EmbeddedFeatures, split: str) -> LabelledFeatures:
    """Canonical captions, and the groups of what they name."""
    pairs = features.corpus.pairs(split)
    return LabelledFeatures(features.text_features(pairs.captions), np.array(pairs.groups))


def _parts_of_speech(features: EmbeddedFeatures, split: str) -> LabelledFeatures:
    """Dictionary texts, and whether they explain a noun, verb, adjective or adverb.

    Raises:
        ValueError: a text's key is not that of a synset.
    """
    texts = features.corpus.texts(split)
    labels = [PART_OF_SPEECH.get(origin[:1]) for origin in texts.origins]
    if None in labels:
        raise ValueError(
            f"text {texts.origins[labels.index(None)]} of {split} is of no WordNet synset: its key "
            f"begins with none of {', '.join(PART_OF_SPEECH)}"
        )
    return LabelledFeatures(features.text_features(texts), np.array(labels))


PART_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
"""The letter that WordNet's names of synsets begin with; "s" is a satellite adjective."""


TRAINED_STYLES = "{noto,noto-v1,fluent-emoji-flat,fxemoji,emojione,emojione-v1}"

SPLITS = {
    split.name: split
    for split in (
        EmbeddedSplit(
            name="unseen_style",
            title="unseen style (Twemoji), seen concepts",
            shards=("embedded:pairs/twemoji-train.tar",),
        ),
        EmbeddedSplit(
            name="unseen_style_hard",
            title="second unseen style (OpenMoji), seen concepts",
            shards=("embedded:pairs/openmoji-train.tar",),
        ),
        EmbeddedSplit(
            name="unseen_concepts",
            title="unseen concepts, seen style (Noto)",
            shards=("embedded:pairs/noto-test.tar",),
        ),
        EmbeddedSplit(
            name="unseen_concepts_all",
            title="unseen concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-test.tar",),
        ),
        EmbeddedSplit(
            name="unseen_both",
            title="unseen concepts in the unseen style (Twemoji)",
            shards=("embedded:pairs/twemoji-test.tar",),
        ),
        EmbeddedSplit(
            name=VALIDATION,
            title="validation concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-val.tar",),
        ),
        EmbeddedSplit(
            name=PROBE_TRAIN,
            title="training concepts in all six seen styles",
            shards=(f"embedded:pairs/{TRAINED_STYLES}-train.tar",),
            limit=3000,
        ),
        EmbeddedSplit(
            name="digits",
            title="MNIST's digits",
            shards=("embedded:images/mnist-test.tar",),
        ),
        EmbeddedSplit(
            name="digits_train",
            title="MNIST's training digits",
            shards=("embedded:images/mnist-train.tar",),
            limit=2000,
        ),
        EmbeddedSplit(
            name="digits_validation",
            title="others of MNIST's training digits",
            shards=("embedded:images/mnist-train.tar",),
            limit=2000,
            after="digits_train",
        ),
        EmbeddedSplit(
            name="wordnet_train",
            title="WordNet glosses and examples, also trained on without labels",
            shards=("embedded:text/wordnet-train.jsonl",),
            limit=3000,
        ),
        EmbeddedSplit(
            name="wordnet_validation",
            title="validation WordNet glosses and examples",
            shards=("embedded:text/wordnet-val.jsonl",),
            limit=1000,
        ),
        EmbeddedSplit(
            name="wordnet",
            title="unseen WordNet glosses and examples",
            shards=("embedded:text/wordnet-test.jsonl",),
            limit=1000,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is measured on which split. Every figure gets the untrained model's beside it."""

    name: str
    split: str
    measure: Callable[[Any, str], TaskMetrics]
    """(`EmbeddedFeatures`, name of the split) -> metrics."""
    needs: tuple[str, ...] = ()
    """Parts of the model that not every checkpoint holds: without them the task is left out."""
    pca: str | None = None
    """The split on whose pixels the principal components are fitted that can stand in for the
    model's features."""


def _on_splits(
    name: str,
    measure: Callable[[Any, str], TaskMetrics],
    splits: str,
    *,
    needs: tuple[str, ...] = (),
    pca: str | None = None,
) -> tuple[Task, ...]:
    """The same task on several splits."""
    return tuple(
        Task(name=name, split=split, measure=measure, needs=needs, pca=pca)
        for split in splits.split()
    )


IMAGE, TEXT = ("image_encoder",), ("text_encoder",)
CODES = ("codebook.encoder",)

GROUPS = ProbeTask(name="groups", labelled=_image_groups)
DIGITS = ProbeTask(
    name="digits",
    labelled=_digits,
    train="digits_train",
    validation="digits_validation",
)
CAPTION_GROUPS = ProbeTask(name="caption groups", labelled=_caption_groups)
PARTS_OF_SPEECH = ProbeTask(
    name="parts of speech",
    labelled=_parts_of_speech,
    train="wordnet_train",
    validation="wordnet_validation",
)

TASKS = (
    *_on_splits(
        "retrieval",
        _retrieval,
        "unseen_style unseen_style_hard unseen_concepts unseen_both",
        needs=CONTRASTIVE_PARTS,
    ),
    *_on_splits(
        "zero_shot",
        _zero_shot,
        "unseen_style unseen_style_hard unseen_concepts_all unseen_both",
        needs=CONTRASTIVE_PARTS,
    ),
    *_on_splits(
        "linear_probe",
        GROUPS,
        "unseen_concepts_all unseen_both",
        needs=IMAGE,
        pca=GROUPS.train,
    ),
    *_on_splits("digits", DIGITS, "digits", needs=IMAGE, pca=DIGITS.train),
    *_on_splits("caption_groups", CAPTION_GROUPS, "unseen_concepts", needs=TEXT),
    *_on_splits("parts_of_speech", PARTS_OF_SPEECH, "wordnet", needs=TEXT),
    *_on_splits("itm", masked_tasks.itm, "unseen_style unseen_concepts", needs=("itm_head",)),
    *_on_splits(
        "mmm_text", masked_tasks.mmm_text, "unseen_style unseen_concepts", needs=("mmm_text_head",)
    ),
    *_on_splits(
        "mlm_captions",
        masked_tasks.mlm_captions,
        "unseen_style unseen_concepts",
        needs=("mlm_head",),
    ),
    *_on_splits("mlm", masked_tasks.mlm, "wordnet", needs=("mlm_head",)),
    *_on_splits(
        "mmm_image",
        masked_tasks.mmm_image,
        "unseen_style unseen_concepts",
        needs=("mmm_image_head", *CODES),
    ),
    *_on_splits(
        "mim", masked_tasks.mim, "unseen_style unseen_concepts", needs=("mim_head", *CODES)
    ),
)

"""Validators: they measure a run while it trains, and choose its best checkpoint.

A validator is (model, step) -> figures, of which the first chooses the best checkpoint. Every rank
calls it, computes a part, and gets the figures that all others get.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import nn

from flava.core.batch import Batch, to_device
from flava.core.precision import Precision
from flava.data.errors import SampleError, SkippedSample
from flava.data.imagenet import LabelledImages
from flava.data.samples import first_caption, image_file_of, image_of
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.stored_images import open_image
from flava.evaluation.embedded_data import CLASSES, TEMPLATES, EmbeddedCorpus, EmbeddedSplit
from flava.evaluation.embedded_features import EmbeddedFeatures
from flava.evaluation.embedded_tasks import SPLITS, VALIDATION, in_classes
from flava.evaluation.prompts import PROMPTS, Prompts, classify_with_prompts
from flava.evaluation.record import accuracy
from flava.evaluation.retrieval import ranks, recall
from flava.evaluation.shared_features import StoredImageFeatures, image_features, text_embeddings
from flava.inference.features import BATCH_SIZE, FeatureExtractor
from flava.inference.zero_shot import class_embeddings, classify
from flava.models import Clip, ClipConfig, Flava, FlavaConfig
from flava.objectives.objective import Objective, Validate

EMBEDDED_BATCH_SIZE = 256


def embedded_validator(
    config: FlavaConfig | ClipConfig,
    *,
    splits: Mapping[str, EmbeddedSplit] = SPLITS,
    precision: Precision = Precision.BF16,
) -> Validate:
    """Figures on the embedded corpus: its validation concepts in the styles that are trained on.

    The first figure, ``zero_shot_accuracy``, chooses the best checkpoint. ``retrieval_r@5`` is the
    mean of both directions, among the validation concepts.

    Raises:
        FileNotFoundError, ValueError: as `EmbeddedCorpus`; the data is read now, not in training.
    """
    corpus = EmbeddedCorpus(splits, config, seed=0)
    pairs = corpus.pairs(VALIDATION)
    rows, truth = in_classes(pairs.subgroups)
    ids = pairs.concept_ids
    first_of_concept = np.unique(ids, return_index=True)[1]
    assert len(pairs.pixels) == len(ids)  # decoded now, for all calls

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        assert isinstance(model, Flava | Clip)
        features = EmbeddedFeatures(FeatureExtractor(model, precision, EMBEDDED_BATCH_SIZE), corpus)
        with features.extractor.computing():
            images = features.image_embeddings(VALIDATION)
            texts = features.caption_embeddings(VALIDATION)
            classes = class_embeddings(features.embed, [each.names for each in CLASSES], TEMPLATES)
        # One caption a concept: six styles have the same one.
        texts, text_ids = texts[first_of_concept], ids[first_of_concept]
        both_directions = [
            recall(ranks(images.numpy(), texts.numpy(), ids, text_ids), k=K),
            recall(ranks(texts.numpy(), images.numpy(), text_ids, ids), k=K),
        ]
        return {
            "zero_shot_accuracy": accuracy(classify(images[rows], classes), truth),
            "retrieval_r@5": sum(both_directions) / 2,
        }

    return validate


def loss_validator(
    objective: Objective, batches: Sequence[Batch], precision: Precision
) -> Validate:
    """For each loss its mean over ``batches`` with the sign changed, and its accuracy.

    With the sign changed it is the log-likelihood of what is hidden, in nats for each prediction:
    more is better, as the choice of the best checkpoint needs. Accuracies are in [0, 1].
    """

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = FeatureExtractor(model, precision)
        with extractor.computing():
            losses = [objective(to_device(batch, extractor.device)) for batch in batches]
        figures = {}
        for name in losses[0]:
            values = [each[name].loss.item() for each in losses]
            accuracies = [a.item() for each in losses if (a := each[name].accuracy) is not None]
            figures[f"{name}_log_likelihood"] = -sum(values) / len(values)
            figures[f"{name}_accuracy"] = sum(accuracies) / max(1, len(accuracies))
        return figures

    return validate


K = 5
"""The k of R@k."""
MOST_PAIRS = 5_000
"""Validation pairs that are read: as many as Karpathy's test split of COCO has images. Their files
are kept in memory, and among more of them R@5 is another figure."""

TRIED = 8
"""Images of ImageNet that are decoded before training begins."""
NAMED = 10
"""Of the images that cannot be decoded so many are named each time; the others are counted."""

log = logging.getLogger(__name__)


def imagenet_validator(
    images: LabelledImages,
    precision: Precision,
    *,
    threads: int,
    batch_size: int = BATCH_SIZE,
    prompts: Prompts | None = None,
) -> Validate:
    """Zero-shot accuracy on ImageNet-1k, as `flava evaluate --tasks zero_shot_imagenet` finds it.

    An image that cannot be decoded counts as not recognised, and is named in a warning. ``threads``
    decode images.

    Raises:
        ValueError: of some images, which are decoded now, not one can be.
    """
    prompts = PROMPTS["imagenet"] if prompts is None else prompts
    _check_readable(images)
    labels = torch.from_numpy(images.labels)

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = FeatureExtractor(model, precision, batch_size)
        features = _warned(image_features(extractor, images, threads=threads))
        predicted = torch.from_numpy(classify_with_prompts(extractor, features.values, prompts))
        right = (predicted == labels) & ~torch.from_numpy(features.unreadable)
        return {"imagenet_zero_shot_accuracy": right.double().mean().item()}

    return validate


def _check_readable(images: LabelledImages) -> None:
    """Raises ValueError: none of a few images from all over can be decoded."""
    errors = []
    for place in np.linspace(0, len(images) - 1, TRIED).astype(int).tolist():
        try:
            open_image(images[place])
            return
        except SampleError as error:
            errors.append(f"image {place}: {error}")
    raise ValueError(f"validator is imagenet, but no image can be read, of {images}: {errors[0]}")


@dataclass(frozen=True)
class ValidationPairs:
    """Image files and captions: those of a pair have the same index."""

    files: Sequence[bytes]
    captions: Sequence[str]

    @cached_property
    def ids(self) -> np.ndarray:
        """The same number for pairs of the same image, for which all their captions are right."""
        digests = [hashlib.sha256(file).hexdigest() for file in self.files]
        return np.unique(digests, return_inverse=True)[1]


def read_validation_pairs(shards: Sequence[str]) -> ValidationPairs:
    """The first ``MOST_PAIRS`` pairs of some shards; what cannot be used is named and counted.

    Raises:
        FileNotFoundError, ValueError: as `resolve_all`; or no pair can be used, or too few.
    """
    paths = resolve_all(shards)
    named = ", ".join(map(str, paths))
    files, captions, skipped = [], [], []
    for raw in chain.from_iterable(map(read_shard, paths)):
        if len(files) == MOST_PAIRS:
            log.warning("validation: the first %s pairs are looked at, and no others", MOST_PAIRS)
            break
        try:
            file, caption = _usable(raw)
        except SampleError as error:
            skipped.append(f"{raw.shard}, {raw.key}: {error}")
        else:
            files.append(file)
            captions.append(caption)
    if skipped:
        log.warning("validation: %s pairs are left out, first %s", len(skipped), skipped[0])
    if not files:
        raise ValueError(f"validation: no usable pair in {named}: name tars of images with texts")
    pairs = ValidationPairs(files, captions)
    if (count := len(np.unique(pairs.ids))) <= K:
        raise ValueError(
            f"validation: {named} holds {len(files)} pairs of {count} images, among which the "
            f"right one is always among the first {K}: hold out more than {K} images"
        )
    return pairs


def _usable(raw: RawSample | SkippedSample) -> tuple[bytes, str]:
    """A pair's image file and its first caption.

    Raises:
        SampleError: one of them cannot be used.
    """
    if isinstance(raw, SkippedSample):
        raise SampleError(raw.reason, raw.message)
    image_of(raw)  # decoded now, and not first in the middle of training
    return image_file_of(raw), first_caption(raw)


def retrieval_validator(
    pairs: ValidationPairs, precision: Precision, *, threads: int, batch_size: int = BATCH_SIZE
) -> Validate:
    """R@5 of images' texts and of texts' images; the mean of both is the first figure.

    Images are turned as their EXIF says, as in training and as `flava.load` shows them. ``threads``
    decode them.
    """
    ids = pairs.ids

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = FeatureExtractor(model, precision, batch_size)
        features = _warned(image_features(extractor, pairs.files, threads=threads, upright=True))
        # An image that this model cannot be shown is like no text: its pair is not found.
        images = extractor.project_images(np.nan_to_num(features.values)).numpy()
        texts = text_embeddings(extractor, pairs.captions).numpy()
        to_text = recall(ranks(images, texts, ids, ids), K)
        to_image = recall(ranks(texts, images, ids, ids), K)
        return {
            "held_out_r@5": (to_text + to_image) / 2,
            "held_out_image_to_text_r@5": to_text,
            "held_out_text_to_image_r@5": to_image,
        }

    return validate


def _warned(features: StoredImageFeatures) -> StoredImageFeatures:
    """The same features, after a warning for images that this rank could not decode."""
    for error in features.errors[:NAMED]:
        log.warning("validation: %s", error)
    if (more := len(features.errors) - NAMED) > 0:
        log.warning("validation: and %s more images cannot be decoded", more)
    return features

"""What measures a run while it trains, and chooses its best checkpoint.

A validator is what training calls a probe: (model, step) -> figures, of which the first chooses the
best checkpoint. Every rank is asked, computes its part, and has the figures that all others have.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flava.core.batch import Batch, to_device
from flava.core.distributed import batches_for_rank, compute_across_ranks
from flava.core.precision import Precision
from flava.data.errors import SampleError, SkippedSample
from flava.data.imagenet import LabelledImages
from flava.data.samples import first_caption, image_file_of, image_of
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.stored_images import StoredImages, open_image
from flava.evaluation.embedded_data import CLASSES, TEMPLATES, EmbeddedSplit, HeldOut
from flava.evaluation.features import EvaluatedModel, Settings, evaluating
from flava.evaluation.image_features import FeatureExtractor
from flava.evaluation.prompts import PROMPTS, Prompts, classify_with_prompts
from flava.evaluation.record import accuracy
from flava.evaluation.retrieval import ranks, recall
from flava.evaluation.tasks import SPLITS, VALIDATION, in_classes
from flava.inference.zero_shot import class_embeddings, classify
from flava.models import Clip, ClipConfig, Flava, FlavaConfig
from flava.objectives.objective import Objective

BATCH_SIZE = 256

Validate = Callable[[nn.Module, int], dict[str, float]]


def zero_shot_probe(
    config: FlavaConfig | ClipConfig,
    *,
    splits: Mapping[str, EmbeddedSplit] = SPLITS,
    precision: Precision = Precision.BF16,
) -> Validate:
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
        subject = EvaluatedModel(model, held_out, BATCH_SIZE)
        with evaluating(model, precision):
            images = subject.image_embeddings(VALIDATION)
            texts = subject.caption_embeddings(VALIDATION)
            classes = class_embeddings(subject.embed, [each.names for each in CLASSES], TEMPLATES)
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


def loss_probe(
    objective: Objective, batches: Sequence[Batch], precision: Precision
) -> Callable[[nn.Module, int], dict[str, float]]:
    """(model, step) -> for each loss its mean over ``batches`` with the sign changed, and accuracy.

    With the sign changed it is the log-likelihood of what is hidden, in nats for each prediction:
    more is better, as the choice of the best checkpoint needs. Accuracies are in [0, 1].
    """

    def probe(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        device = next(model.parameters()).device
        with evaluating(model, precision):
            found = [objective(to_device(batch, device)) for batch in batches]
        figures = {}
        for name in found[0]:
            losses = [terms[name].loss.item() for terms in found]
            right = [a.item() for terms in found if (a := terms[name].accuracy) is not None]
            figures[f"{name}_log_likelihood"] = -sum(losses) / len(losses)
            figures[f"{name}_accuracy"] = sum(right) / max(1, len(right))
        return figures

    return probe


K = 5
"""The k of R@k."""
MOST_PAIRS = 5_000
"""Held-out pairs that are looked at: as many as Karpathy's test split of COCO has images. Their
files are held in memory, and among more of them R@5 is another figure."""

TRIED = 8
"""Images of ImageNet that are decoded before training begins."""
NAMED = 10
"""Images that could not be decoded which are named each time; the others are counted."""

log = logging.getLogger(__name__)


def imagenet_validator(
    images: LabelledImages, settings: Settings, *, threads: int, prompts: Prompts | None = None
) -> Validate:
    """Zero-shot accuracy on ImageNet-1k, as `flava evaluate --tasks zero_shot_imagenet` finds it.

    An image that cannot be decoded counts as not recognised, and is named in a warning.

    Raises:
        ValueError: of some images, which are decoded now, not one can be.
    """
    prompts = PROMPTS["imagenet"] if prompts is None else prompts
    check_readable(images)
    labels = torch.from_numpy(images.labels)

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = FeatureExtractor(model, settings, threads=threads, shown=False)
        features = features_of(extractor, images)
        right = torch.from_numpy(classify_with_prompts(extractor, features, prompts)) == labels
        right &= ~torch.from_numpy(unreadable(features))
        return {"imagenet_zero_shot_accuracy": right.double().mean().item()}

    return validate


def check_readable(images: LabelledImages) -> None:
    """Raises ValueError: none of a few images from all over can be decoded."""
    said = []
    for place in np.linspace(0, len(images) - 1, TRIED).astype(int).tolist():
        try:
            open_image(images[place])
            return
        except SampleError as error:
            said.append(f"image {place}: {error}")
    raise ValueError(f"validator is imagenet, but no image can be read, of {images}: {said[0]}")


@dataclass(frozen=True)
class HeldOutPairs:
    """Image files and captions: pair i has place i in both."""

    files: Sequence[bytes]
    captions: Sequence[str]

    @cached_property
    def ids(self) -> np.ndarray:
        """The same number where pairs share an image, whose captions are all right for it."""
        digests = [hashlib.sha256(file).hexdigest() for file in self.files]
        return np.unique(digests, return_inverse=True)[1]


def held_out_pairs(shards: Sequence[str]) -> HeldOutPairs:
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
            file, caption = usable(raw)
        except SampleError as error:
            skipped.append(f"{raw.shard}, {raw.key}: {error}")
        else:
            files.append(file)
            captions.append(caption)
    if skipped:
        log.warning("validation: %s pairs are left out, first %s", len(skipped), skipped[0])
    if not files:
        raise ValueError(f"held_out: no usable pair in {named}: name tars of images with texts")
    pairs = HeldOutPairs(files, captions)
    if (count := len(np.unique(pairs.ids))) <= K:
        raise ValueError(
            f"held_out: {named} holds {len(files)} pairs of {count} images, among which the right "
            f"one is always among the first {K}: hold out more than {K} images"
        )
    return pairs


def usable(raw: RawSample | SkippedSample) -> tuple[bytes, str]:
    """A pair's image file and its first caption.

    Raises:
        SampleError: one of them cannot be used.
    """
    if isinstance(raw, SkippedSample):
        raise SampleError(raw.reason, raw.message)
    image_of(raw)  # decoded now, and not first in the middle of training
    return image_file_of(raw), first_caption(raw)


def retrieval_validator(pairs: HeldOutPairs, settings: Settings, *, threads: int) -> Validate:
    """R@5 of images' texts and of texts' images; the mean of both is the first figure.

    Images are turned as their EXIF says, as in training and as `flava.load` shows them.
    """
    ids = pairs.ids

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = FeatureExtractor(model, settings, threads=threads, shown=False, upright=True)
        # An image that this model cannot be shown is like no text: its pair is not found.
        images = extractor.project(np.nan_to_num(features_of(extractor, pairs.files))).numpy()
        texts = embeddings(extractor, pairs.captions).numpy()
        to_text = recall(ranks(images, texts, ids, ids), K)
        to_image = recall(ranks(texts, images, ids, ids), K)
        return {
            "held_out_r@5": (to_text + to_image) / 2,
            "held_out_image_to_text_r@5": to_text,
            "held_out_text_to_image_r@5": to_image,
        }

    return validate


def features_of(
    extractor: FeatureExtractor, images: StoredImages
) -> Float[np.ndarray, "images width"]:
    """The features of every image, of which each rank computes a part; see `unreadable`."""
    size, count = extractor.settings.batch_size, len(images)
    own = np.concatenate([np.arange(p.start, p.stop) for p, _ in batches_for_rank(count, size)])
    decoded = extractor.batches(images, own)
    failed: list[SampleError] = []

    def computed(places: range) -> Tensor:  # noqa: ARG001
        levels = next(decoded)  # those of the places: both follow `own_batches`
        bad = [isinstance(each, SampleError) for each in levels]
        failed.extend(each for each in levels if isinstance(each, SampleError))
        black = np.zeros((*extractor.view.crop, 3), np.uint8)
        features = extractor.encode([black if b else e for e, b in zip(levels, bad, strict=True)])
        features[bad] = np.nan
        return torch.from_numpy(features)

    with evaluating(extractor.model, extractor.settings.precision):
        features = compute_across_ranks(count, size, computed, device_of(extractor)).numpy()
    for error in failed[:NAMED]:
        log.warning("validation: %s", error)
    if len(failed) > NAMED:
        log.warning("validation: and %s more images cannot be decoded", len(failed) - NAMED)
    return features


def unreadable(features: Float[np.ndarray, "images width"]) -> Bool[np.ndarray, " images"]:
    """Which images could not be decoded: they have features that are no numbers."""
    return np.isnan(features[:, 0])


def embeddings(
    extractor: FeatureExtractor, texts: Sequence[str]
) -> Float[Tensor, "texts projection"]:
    """Unit vectors of texts, each rank of a part of them."""

    def embed(places: range) -> Tensor:
        return extractor.embed(texts[places.start : places.stop])

    size = extractor.settings.batch_size
    with evaluating(extractor.model, extractor.settings.precision):
        return compute_across_ranks(len(texts), size, embed, device_of(extractor))


def device_of(extractor: FeatureExtractor) -> torch.device:
    return next(extractor.model.parameters()).device

"""Validators of pretraining beside the embedded corpus's: ImageNet-1k, and held-out pairs.

A validator is what training calls a probe: (model, step) -> figures, of which the first chooses the
best checkpoint. Every rank is asked, computes its part, and has the figures that all others have.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flava.data.errors import SampleError, Skipped
from flava.data.imagenet import LabelledImages
from flava.data.shards import Raw, read_shard, resolve_all
from flava.data.source import first_caption, image_file_of, image_of
from flava.evaluation.probe import Probe
from flava.evaluation.ranks import of_all_ranks, own_batches
from flava.evaluation.retrieval import ranks, recall
from flava.evaluation.subject import evaluating
from flava.evaluation.suite.task import Settings
from flava.evaluation.suite.vision.collection import Images
from flava.evaluation.suite.vision.decoding import open_image
from flava.evaluation.suite.vision.features import Extractor
from flava.evaluation.suite.vision.zero_shot import PROMPTS, Prompts, classify

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
) -> Probe:
    """Zero-shot accuracy on ImageNet-1k, as `flava evaluate --tasks zero_shot_imagenet` finds it.

    An image that cannot be decoded counts as not recognised, and is named in a warning.

    Raises:
        ValueError: of some images, which are decoded now, not one can be.
    """
    prompts = PROMPTS["imagenet"] if prompts is None else prompts
    check_readable(images)
    labels = torch.from_numpy(images.labels)

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = Extractor(model, settings, threads=threads, shown=False)
        features = features_of(extractor, images)
        right = torch.from_numpy(classify(extractor, features, prompts)) == labels
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


def usable(raw: Raw | Skipped) -> tuple[bytes, str]:
    """A pair's image file and its first caption.

    Raises:
        SampleError: one of them cannot be used.
    """
    if isinstance(raw, Skipped):
        raise SampleError(raw.reason, raw.message)
    image_of(raw)  # decoded now, and not first in the middle of training
    return image_file_of(raw), first_caption(raw)


def retrieval_validator(pairs: HeldOutPairs, settings: Settings, *, threads: int) -> Probe:
    """R@5 of images' texts and of texts' images; the mean of both is the first figure.

    Images are turned as their EXIF says, as in training and as `flava.load` shows them.
    """
    ids = pairs.ids

    def validate(model: nn.Module, step: int) -> dict[str, float]:  # noqa: ARG001
        extractor = Extractor(model, settings, threads=threads, shown=False, upright=True)
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


def features_of(extractor: Extractor, images: Images) -> Float[np.ndarray, "images width"]:
    """The features of every image, of which each rank computes a part; see `unreadable`."""
    size, count = extractor.settings.batch_size, len(images)
    own = np.concatenate([np.arange(p.start, p.stop) for p, _ in own_batches(count, size)])
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
        features = of_all_ranks(count, size, computed, device_of(extractor)).numpy()
    for error in failed[:NAMED]:
        log.warning("validation: %s", error)
    if len(failed) > NAMED:
        log.warning("validation: and %s more images cannot be decoded", len(failed) - NAMED)
    return features


def unreadable(features: Float[np.ndarray, "images width"]) -> Bool[np.ndarray, " images"]:
    """Which images could not be decoded: they have features that are no numbers."""
    return np.isnan(features[:, 0])


def embeddings(extractor: Extractor, texts: Sequence[str]) -> Float[Tensor, "texts projection"]:
    """Unit vectors of texts, each rank of a part of them."""

    def embed(places: range) -> Tensor:
        return extractor.embed(texts[places.start : places.stop])

    size = extractor.settings.batch_size
    with evaluating(extractor.model, extractor.settings.precision):
        return of_all_ranks(len(texts), size, embed, device_of(extractor))


def device_of(extractor: Extractor) -> torch.device:
    return next(extractor.model.parameters()).device

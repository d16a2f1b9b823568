"""Features that the ranks of a run compute together: each computes a part, and all get the whole.

A batch holds the same images or texts whatever the number of ranks is, so that the features do not
depend on it. A single process computes all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flava.core.distributed import batches_for_rank, compute_across_ranks
from flava.core.progress import progress
from flava.data.errors import SampleError
from flava.data.fast_decoding import Uint8Image
from flava.data.stored_images import Places, StoredImages, open_image
from flava.data.views import View
from flava.inference.encoding import prepare
from flava.inference.features import FeatureExtractor
from flava.inference.zero_shot import class_embeddings


@dataclass(frozen=True)
class StoredImageFeatures:
    """A row for each image; images that cannot be decoded have NaN in theirs."""

    values: Float[np.ndarray, "images width"]
    errors: tuple[SampleError, ...]
    """Those of the images that this rank could not decode."""

    @property
    def unreadable(self) -> Bool[np.ndarray, " images"]:
        """Which images could not be decoded, by any rank."""
        return np.isnan(self.values[:, 0])


def image_features(
    extractor: FeatureExtractor,
    images: StoredImages,
    places: Places | None = None,
    *,
    threads: int | None = None,
    upright: bool = False,
    title: str | None = None,
) -> StoredImageFeatures:
    """The image encoder's [CLS] after its final norm, in 32 bits, of the images at ``places``.

    Args:
        places: All images if it is not given.
        threads: Those that decode images; torch's number of threads if it is not given.
        upright: Whether images are turned as their EXIF says, which the suite's are not.
        title: That of the progress bar; without it none is shown.
    """
    places = np.arange(len(images)) if places is None else places
    size = extractor.batch_size
    batches = (places[part.start : part.stop] for part, _ in batches_for_rank(len(places), size))
    decoded = _decode(images, batches, extractor.view, threads=threads, upright=upright)
    black = np.zeros((*extractor.view.crop, 3), np.uint8)
    errors: list[SampleError] = []

    def compute(_part: range) -> Float[Tensor, "batch width"]:
        batch = next(decoded)  # that of the part: both follow `batches_for_rank`
        failed = [isinstance(each, SampleError) for each in batch]
        errors.extend(each for each in batch if isinstance(each, SampleError))
        shown = [black if isinstance(each, SampleError) else each for each in batch]
        features = extractor.uint8_image_features(shown)
        features[failed] = torch.nan
        advance(len(batch))
        return features

    with extractor.computing(), progress(title, len(places)) as advance:
        values = compute_across_ranks(len(places), size, compute, extractor.device)
    return StoredImageFeatures(values.numpy(), tuple(errors))


def _decode(
    images: StoredImages,
    batches: Iterator[Places],
    view: View,
    *,
    threads: int | None,
    upright: bool,
) -> Iterator[list[Uint8Image | SampleError]]:
    """Batches of images decoded and resized by threads, one batch ahead of the model."""

    def read(place: int) -> Uint8Image | SampleError:
        image = None
        try:
            image = images[place]
            return view.transform(open_image(image, upright=upright))
        except SampleError as error:
            name = image if isinstance(image, Path) else f"sample {place}"
            return SampleError(f"{name}: {error}")

    places = (batch.tolist() for batch in batches)
    return prepare(read, places, threads or torch.get_num_threads())


def text_embeddings(
    extractor: FeatureExtractor, texts: Sequence[str]
) -> Float[Tensor, "texts projection"]:
    """Unit vectors of texts in the contrastive space."""

    def compute(part: range) -> Float[Tensor, "batch projection"]:
        return extractor.embed_texts(texts[part.start : part.stop])

    with extractor.computing():
        size, device = extractor.batch_size, extractor.device
        return compute_across_ranks(len(texts), size, compute, device)


def prompted_class_embeddings(
    extractor: FeatureExtractor,
    classes: Sequence[Sequence[str]],
    templates: Sequence[str],
    *,
    title: str | None = None,
) -> Float[Tensor, "classes projection"]:
    """A unit vector for each class, given as its names: see `class_embeddings`."""

    def compute(part: range) -> Float[Tensor, "classes projection"]:
        names = classes[part.start : part.stop]
        advance(len(names))
        return class_embeddings(extractor.embed_texts, names, templates)

    size = max(1, extractor.batch_size // len(templates))
    with extractor.computing(), progress(title, len(classes)) as advance:
        return compute_across_ranks(len(classes), size, compute, extractor.device)

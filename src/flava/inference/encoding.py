"""Prepares any number of images and texts for a model, in groups of about equal work.

Images are decoded by threads, one group ahead of the model.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flava.data.errors import SampleError
from flava.data.views import View
from flava.inference.features import FeatureExtractor
from flava.inference.processor import (
    ImageLike,
    ImagesLike,
    Processor,
    attempt,
    image_list,
    open_image,
    usable,
)
from flava.inference.results import HiddenStates

THREADS = 2
"""Preparing images. PIL lets go of Python's lock, so they do not wait for each other."""

T = TypeVar("T")
U = TypeVar("U")


def _groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices from short to long, in groups of at most ``tokens`` when padded to the longest.

    Equal lengths stay in the order given. What is longer than ``tokens`` is a group of its own.
    """
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if group and (len(group) + 1) * lengths[index] > tokens:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def prepare(
    function: Callable[[T], U], batches: Iterator[Sequence[T]], threads: int = THREADS
) -> Iterator[list[U]]:
    """The function's results for the items of each batch, computed by threads one batch ahead.

    Raises:
        Whatever the function raises, when the batch is asked for.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[U]]] = deque()

        def submit(count: int) -> None:
            for batch in islice(batches, count):
                waiting.append([pool.submit(function, item) for item in batch])

        try:
            submit(2)
            while waiting:
                done = [future.result() for future in waiting.popleft()]
                yield done
                submit(1)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


GROUP_TOKENS = 8192
"""Padded tokens computed at once. Attention over 512-token texts then takes 200 MB in ViT-B."""

ViewedImage = tuple[UInt8[np.ndarray, "height width 3"], ...]
"""One image as each of several views sees it."""


@dataclass(frozen=True)
class ImageGroup:
    """Some of the images: their indices, and their pixels for each view."""

    indices: list[int]
    pixels: tuple[Float[Tensor, "batch 3 _ _"], ...]


@dataclass(frozen=True)
class TextGroup:
    """Some of the texts: their indices, and their ids padded to the longest of them."""

    indices: list[int]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True)
class PairGroup:
    """Some of the pairs: their indices, and both sides."""

    indices: list[int]
    pixels: tuple[Float[Tensor, "batch 3 _ _"], ...]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


class InputGroups:
    """A user's images and texts as a model reads them, in groups of at most `GROUP_TOKENS`.

    All tensors are on ``device`` but the attention masks, which stay on the CPU.
    """

    def __init__(self, processor: Processor, patch_size: int, device: torch.device) -> None:
        self.processor, self.device = processor, device
        height, width = processor.image.crop
        self.grid = height // patch_size, width // patch_size
        """Rows and columns of patches of every image."""

    @property
    def image_tokens(self) -> int:
        """States of an image: [CLS] and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    def images(
        self,
        images: ImagesLike,
        *more_views: View,
        order: Sequence[list[int]] = (),
    ) -> Iterator[ImageGroup]:
        """The images as the encoder and ``more_views`` see them, in the groups of ``order``.

        Raises:
            ValueError: some images cannot be used; all those of one group are named.
        """
        listed, views = image_list(images), (self.processor.image, *more_views)

        def view_image(index: int) -> ViewedImage | SampleError:
            return attempt(lambda image: _seen_by(views, image), listed[index])

        order = order or list(_groups([self.image_tokens] * len(listed), GROUP_TOKENS))
        for indices, results in zip(order, prepare(view_image, iter(order)), strict=True):
            by_view = zip(*usable(results, indices, "images"), strict=True)
            pixels = (v.normalise(levels) for v, levels in zip(views, by_view, strict=True))
            yield ImageGroup(indices, tuple(each.to(self.device) for each in pixels))

    def texts(
        self, input_ids: Sequence[list[int]], order: Sequence[list[int]] = ()
    ) -> Iterator[TextGroup]:
        """The texts of these ids, from short to long, or in the groups of ``order``."""
        for indices in order or _groups([len(each) for each in input_ids], GROUP_TOKENS):
            padded, attention_mask = self.processor.padded([input_ids[i] for i in indices])
            yield TextGroup(indices, padded.to(self.device), attention_mask)

    def pairs(
        self, images: ImagesLike, input_ids: Sequence[list[int]], *more_views: View
    ) -> Iterator[PairGroup]:
        """The pairs, from short texts to long.

        Raises:
            ValueError: there are not as many images as texts; or as ``images``.
        """
        listed = image_list(images)
        check_pairs(len(listed), len(input_ids))
        lengths = [1 + self.image_tokens + len(each) for each in input_ids]
        order = list(_groups(lengths, GROUP_TOKENS))
        for image, text in zip(
            self.images(listed, *more_views, order=order), self.texts(input_ids, order), strict=True
        ):
            yield PairGroup(image.indices, image.pixels, text.input_ids, text.attention_mask)


def check_pairs(images: int, texts: int) -> None:
    """Raises ValueError if there are not as many of one as of the other."""
    if images != texts:
        raise ValueError(f"there are {images} images and {texts} texts: give a text for each image")


def _seen_by(views: Sequence[View], image: ImageLike) -> ViewedImage:
    """One image as all views see it; errors as `open_image`."""
    opened = open_image(image)
    return tuple(view.transform(opened) for view in views)


@dataclass(frozen=True)
class PairStates:
    """Both encoders' states before their norms, and the multimodal ones after theirs."""

    image: Float[Tensor, "batch image_tokens image_width"]
    text: Float[Tensor, "batch length text_width"]
    joint: Float[Tensor, "batch tokens width"]


def pair_states(
    extractor: FeatureExtractor,
    pairs: PairGroup,
    patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
) -> PairStates:
    """All states of a group of pairs, with the selected patches hidden."""
    image = extractor.image_states(pairs.pixels[0], patch_mask)
    text = extractor.text_states(pairs.input_ids, pairs.attention_mask)
    return PairStates(image, text, extractor.joint_states(image, text, pairs.attention_mask))


def hidden_states(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    images: ImagesLike | None,
    texts: Sequence[str] | None,
) -> HiddenStates:
    """See `Pretrained.hidden_states`."""
    if texts is None:
        if images is None:
            raise ValueError("give images, texts, or both")
        with extractor.computing():
            return _states_of_images(extractor, inputs, images)
    input_ids = inputs.processor.input_ids(texts)
    _, attention_mask = inputs.processor.padded(input_ids)
    with extractor.computing():
        if images is None:
            return _states_of_texts(extractor, inputs, input_ids, attention_mask)
        return _states_of_pairs(extractor, inputs, images, input_ids, attention_mask)


def _states_of_images(
    extractor: FeatureExtractor, inputs: InputGroups, images: ImagesLike
) -> HiddenStates:
    images = image_list(images)
    model = extractor.model
    image = torch.zeros(len(images), inputs.image_tokens, model.config.image.width)
    for group in inputs.images(images):
        states = model.image_encoder.norm(extractor.image_states(group.pixels[0]))
        image[group.indices] = states.float().cpu()
    return HiddenStates(image=image)


def _states_of_texts(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    input_ids: Sequence[list[int]],
    attention_mask: Bool[Tensor, "texts length"],
) -> HiddenStates:
    model = extractor.model
    text = torch.zeros(*attention_mask.shape, model.config.text.width)
    for group in inputs.texts(input_ids):
        states = extractor.text_states(group.input_ids, group.attention_mask)
        length = group.attention_mask.shape[1]
        text[group.indices, :length] = model.text_encoder.norm(states).float().cpu()
    return HiddenStates(text=text * attention_mask[..., None], text_attention_mask=attention_mask)


def _states_of_pairs(
    extractor: FeatureExtractor,
    inputs: InputGroups,
    images: ImagesLike,
    input_ids: Sequence[list[int]],
    attention_mask: Bool[Tensor, "texts length"],
) -> HiddenStates:
    model, count, tokens = extractor.model, len(input_ids), inputs.image_tokens
    image = torch.zeros(count, tokens, model.config.image.width)
    text = torch.zeros(*attention_mask.shape, model.config.text.width)
    joint_attention_mask = torch.cat(
        [attention_mask.new_ones(count, 1 + tokens), attention_mask], dim=1
    )
    joint = torch.zeros(*joint_attention_mask.shape, model.config.multimodal.width)
    for group in inputs.pairs(images, input_ids):
        states = pair_states(extractor, group)
        indices, length = group.indices, group.attention_mask.shape[1]
        image[indices] = model.image_encoder.norm(states.image).float().cpu()
        text[indices, :length] = model.text_encoder.norm(states.text).float().cpu()
        joint[indices, : 1 + tokens + length] = states.joint.float().cpu()
    return HiddenStates(
        image=image,
        text=text * attention_mask[..., None],
        text_attention_mask=attention_mask,
        multimodal=joint * joint_attention_mask[..., None],
        multimodal_attention_mask=joint_attention_mask,
    )

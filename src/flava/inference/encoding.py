"""A model's encoders over many inputs: grouped by size, prepared ahead by threads."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flava.data.errors import SampleError
from flava.data.views import View
from flava.inference.int8 import InferencePrecision, in_precision
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
from flava.models import Clip, Flava

THREADS = 2
"""Preparing images. PIL lets go of Python's lock, so they do not wait for each other."""

T = TypeVar("T")
U = TypeVar("U")


def groups(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
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


def prepare(function: Callable[[T], U], batches: Iterator[Sequence[T]]) -> Iterator[list[U]]:
    """The function's results for each batch's items, computed one batch ahead of what is asked for.

    Raises:
        Whatever the function raises, when the batch is asked for.
    """
    with ThreadPoolExecutor(THREADS) as pool:
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

Views = tuple[UInt8[np.ndarray, "height width 3"], ...]


@dataclass(frozen=True)
class ImageRows:
    """Some of the images, as every view asked for sees them."""

    rows: list[int]
    pixels: tuple[Float[Tensor, "batch 3 _ _"], ...]


@dataclass(frozen=True)
class TextRows:
    """Some of the texts, padded to the longest of them."""

    rows: list[int]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True)
class PairRows:
    """Some of the pairs: both encoders' states before their norms, and the multimodal ones after
    theirs."""

    rows: list[int]
    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]
    pixels: tuple[Float[Tensor, "batch 3 _ _"], ...]
    image: Float[Tensor, "batch patches image_width"]
    text: Float[Tensor, "batch length text_width"]
    joint: Float[Tensor, "batch tokens width"]


class Passes:
    """The encoders of one model; what is yielded is on the model's device, but for masks, on which
    shapes depend."""

    def __init__(
        self, model: Flava | Clip, processor: Processor, precision: InferencePrecision
    ) -> None:
        self.model = in_precision(model, precision)
        self.processor, self.precision = processor, precision
        self.device = model.logit_scale.device

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of every image."""
        height, width = self.processor.image.crop
        patch = self.model.config.image.patch_size
        return height // patch, width // patch

    @property
    def image_tokens(self) -> int:
        """The image's states: [CLS] and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Everything that is computed must stand within this."""
        lower = self.precision is not InferencePrecision.FP32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, self.precision.dtype, enabled=lower),
        ):
            yield

    def images(
        self,
        images: ImagesLike,
        *more: View,
        order: Sequence[list[int]] = (),
    ) -> Iterator[ImageRows]:
        """The images as the encoder sees them and as ``more`` views do, in the groups of ``order``.

        Raises:
            ValueError: some images cannot be used; all those of one group are named.
        """
        listed, views = image_list(images), (self.processor.image, *more)

        def see(row: int) -> Views | SampleError:
            return attempt(lambda image: look(image, views), listed[row])

        order = order or list(groups([self.image_tokens] * len(listed), GROUP_TOKENS))
        for rows, results in zip(order, prepare(see, iter(order)), strict=True):
            seen = zip(*usable(results, rows, "images"), strict=True)
            pixels = (v.normalise(levels) for v, levels in zip(views, seen, strict=True))
            yield ImageRows(rows, tuple(each.to(self.device) for each in pixels))

    def texts(
        self, input_ids: Sequence[list[int]], order: Sequence[list[int]] = ()
    ) -> Iterator[TextRows]:
        """The texts of these ids, from short to long, or in the groups of ``order``."""
        for rows in order or groups([len(each) for each in input_ids], GROUP_TOKENS):
            padded, attention_mask = self.processor.padded([input_ids[row] for row in rows])
            yield TextRows(rows, padded.to(self.device), attention_mask)

    def pairs(
        self,
        model: Flava,
        images: ImagesLike,
        input_ids: Sequence[list[int]],
        *more: View,
        patch_mask: Bool[Tensor, "pairs rows columns"] | None = None,
    ) -> Iterator[PairRows]:
        """The pairs from short texts to long, with the selected patches hidden.

        Raises:
            ValueError: there are not as many images as texts; or as ``images``.
        """
        listed = image_list(images)
        check_pairs(len(listed), len(input_ids))
        order = list(
            groups([1 + self.image_tokens + len(each) for each in input_ids], GROUP_TOKENS)
        )
        both = zip(
            self.images(listed, *more, order=order), self.texts(input_ids, order), strict=True
        )
        for seen, read in both:
            hidden = None if patch_mask is None else patch_mask[seen.rows]
            image = model.image_encoder(seen.pixels[0], hidden)
            text = model.text_encoder(read.input_ids, read.attention_mask)
            joint = model.multimodal(image, text, read.attention_mask)
            yield PairRows(
                seen.rows, read.input_ids, read.attention_mask, seen.pixels, image, text, joint
            )


def check_pairs(images: int, texts: int) -> None:
    """Raises ValueError if there are not as many of one as of the other."""
    if images != texts:
        raise ValueError(f"there are {images} images and {texts} texts: give a text for each image")


def look(image: ImageLike, views: Sequence[View]) -> Views:
    """One image as all views see it; errors as `open_image`."""
    opened = open_image(image)
    return tuple(view.transform(opened) for view in views)


def gather(
    parts: Iterator[tuple[list[int], Tensor]], count: int, width: int
) -> Float[Tensor, "count width"]:
    """Rows that come in any order, each in its place, in 32 bits on the CPU."""
    whole = torch.zeros(count, width)
    for rows, values in parts:
        whole[rows] = values.float().cpu()
    return whole


def hidden_states(
    model: Flava, passes: Passes, images: ImagesLike | None, texts: Sequence[str] | None
) -> HiddenStates:
    """See `Pretrained.hidden_states`."""
    if texts is None:
        if images is None:
            raise ValueError("give images, texts, or both")
        with passes.computing():
            return of_images(model, passes, images)
    input_ids = passes.processor.input_ids(texts)
    _, attention_mask = passes.processor.padded(input_ids)
    with passes.computing():
        if images is None:
            return of_texts(model, passes, input_ids, attention_mask)
        return of_pairs(model, passes, images, input_ids, attention_mask)


def of_images(model: Flava, passes: Passes, images: ImagesLike) -> HiddenStates:
    images = image_list(images)
    encoder = model.image_encoder
    image = torch.zeros(len(images), passes.image_tokens, model.config.image.width)
    for each in passes.images(images):
        image[each.rows] = encoder.norm(encoder(each.pixels[0])).float().cpu()
    return HiddenStates(image=image)


def of_texts(
    model: Flava,
    passes: Passes,
    input_ids: Sequence[list[int]],
    attention_mask: Bool[Tensor, "texts length"],
) -> HiddenStates:
    encoder = model.text_encoder
    text = torch.zeros(*attention_mask.shape, model.config.text.width)
    for each in passes.texts(input_ids):
        states = encoder.norm(encoder(each.input_ids, each.attention_mask))
        text[each.rows, : each.attention_mask.shape[1]] = states.float().cpu()
    return HiddenStates(text=text * attention_mask[..., None], text_attention_mask=attention_mask)


def of_pairs(
    model: Flava,
    passes: Passes,
    images: ImagesLike,
    input_ids: Sequence[list[int]],
    attention_mask: Bool[Tensor, "texts length"],
) -> HiddenStates:
    config, count, tokens = model.config, len(input_ids), passes.image_tokens
    image = torch.zeros(count, tokens, config.image.width)
    text = torch.zeros(*attention_mask.shape, config.text.width)
    joint_attention_mask = torch.cat(
        [attention_mask.new_ones(count, 1 + tokens), attention_mask], dim=1
    )
    joint = torch.zeros(*joint_attention_mask.shape, config.multimodal.width)
    for each in passes.pairs(model, images, input_ids):
        rows, length = each.rows, each.attention_mask.shape[1]
        image[rows] = model.image_encoder.norm(each.image).float().cpu()
        text[rows, :length] = model.text_encoder.norm(each.text).float().cpu()
        joint[rows, : 1 + tokens + length] = each.joint.float().cpu()
    return HiddenStates(
        image=image,
        text=text * attention_mask[..., None],
        text_attention_mask=attention_mask,
        multimodal=joint * joint_attention_mask[..., None],
        multimodal_attention_mask=joint_attention_mask,
    )

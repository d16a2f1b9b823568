"""One processor for images and texts: whatever a user has, as what the encoders read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flava.data.errors import SampleError
from flava.data.tokenizer import pad
from flava.data.transforms import CODE_PIXELS
from flava.data.views import Side, View
from flava.inference.images import Images, image_list, open_image

Value = TypeVar("Value")
Result = TypeVar("Result")


@runtime_checkable
class TextTokenizer(Protocol):
    """What is needed of a tokeniser: BERT's and CLIP's have it."""

    pad: int
    size: int

    def encode(self, text: str, max_length: int) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Processor:
    """How images become pixels and texts become ids, for one model."""

    image: View
    """What the image encoder sees."""
    codebook: View | None
    """What the dVAE sees; None if the model has none."""
    tokenizer: TextTokenizer
    max_length: int
    """Longest text in tokens: what is beyond it is cut off."""

    def images(self, images: Images) -> Float[Tensor, "batch 3 height width"]:
        """The image encoder's pixels.

        Raises:
            ValueError: some cannot be used; each is named with its place and the reason.
        """
        return self.image.normalise(self._levels(images, self.image))

    def codebook_images(self, images: Images) -> Float[Tensor, "batch 3 height width"]:
        """The dVAE's pixels, mapped to [0.1, 0.9]; errors as ``images``."""
        if self.codebook is None:
            raise ValueError("this model has no codebook: load a FLAVA")
        return self.codebook.normalise(self._levels(images, self.codebook))

    def texts(
        self, texts: Sequence[str]
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids padded to the longest text, and where they are not padding.

        Raises:
            ValueError: some are not Unicode text; each is named with its place.
        """
        return self.padded(self.ids(texts))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, in its own length; errors as ``texts``."""
        if isinstance(texts, str):
            raise ValueError("texts is a single text: give a list of texts, [text]")
        return usable([attempt(self._encode, text) for text in texts], range(len(texts)), "texts")

    def padded(
        self, ids: Sequence[Sequence[int]]
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids padded to the longest of them, and where they are not padding."""
        padded, real = pad(ids, self.tokenizer.pad)
        return torch.from_numpy(padded), torch.from_numpy(real)

    def of_size(self, size: Side, patch_size: int) -> "Processor":
        """The same for images of another height and width."""
        codes = (size[0] // patch_size * CODE_PIXELS, size[1] // patch_size * CODE_PIXELS)
        codebook = None if self.codebook is None else self.codebook.of_size(codes)
        return replace(self, image=self.image.of_size(size), codebook=codebook)

    def _levels(self, images: Images, view: View) -> list[UInt8[np.ndarray, "height width 3"]]:
        listed = image_list(images)
        seen = [attempt(lambda image: view.levels(open_image(image)), each) for each in listed]
        return usable(seen, range(len(listed)), "images")

    def _encode(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise SampleError("not a text", f"{type(text).__name__}")
        return self.tokenizer.encode(text, self.max_length)


def attempt(function: Callable[[Value], Result], value: Value) -> Result | SampleError:
    """The function's result, or the error that this one sample gave."""
    try:
        return function(value)
    except SampleError as error:
        return error


def usable(
    results: Sequence[Result | SampleError], places: Sequence[int], what: str
) -> list[Result]:
    """The results if none is an error.

    Raises:
        ValueError: some are; all of them, each with its place among the inputs.
    """
    lines = [
        f"{what}[{place}]: {result}"
        for place, result in zip(places, results, strict=True)
        if isinstance(result, SampleError)
    ]
    if lines:
        raise ValueError(f"some {what} cannot be used:\n  " + "\n  ".join(sorted(lines)))
    return [result for result in results if not isinstance(result, SampleError)]

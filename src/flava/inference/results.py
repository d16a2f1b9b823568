"""The types of the results that the methods of a loaded model return."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """States of the encoders after their final norms, 32 bits, on the CPU, zero at padding.

    They are the published `FlavaModel`'s ``image_embeddings``, ``text_embeddings`` and
    ``multimodal_embeddings``. What was not given is None.
    """

    image: Float[Tensor, "count image_tokens image_width"] | None = None
    """[CLS], then the patches row by row."""
    text: Float[Tensor, "count length text_width"] | None = None
    """[CLS], then the other tokens."""
    text_attention_mask: Bool[Tensor, "count length"] | None = None
    """False at padding."""
    multimodal: Float[Tensor, "count tokens width"] | None = None
    """[CLS_M], image [CLS], patches, text."""
    multimodal_attention_mask: Bool[Tensor, "count tokens"] | None = None
    """False at padding."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """How well the two sides of each pair go together."""

    cosine: Float[Tensor, " pairs"]
    """Of their embeddings, in [-1, 1]: the contrastive score."""
    probability: Float[Tensor, " pairs"] | None
    """That they belong together, by the image-text matching head; None for CLIP, which has none."""


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """Zero-shot classes of images."""

    names: tuple[str, ...]
    probabilities: Float[Tensor, "images classes"]
    """They add up to 1 for each image."""

    @property
    def ranking(self) -> Int[Tensor, "images classes"]:
        """Indices of the classes, the likeliest first."""
        return self.probabilities.argsort(dim=1, descending=True, stable=True)

    @property
    def best(self) -> list[str]:
        """The likeliest class of each image."""
        return [self.names[i] for i in self.probabilities.argmax(dim=1).tolist()]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that the model predicts for a [MASK]."""

    token: str
    """An entry of the vocabulary: "##ing" continues the word before it."""
    probability: float


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An image whose hidden patches were filled in."""

    original: Image.Image
    """As the codebook sees it: eight pixels a patch."""
    masked: Image.Image
    """The same with grey at the hidden patches."""
    filled: Image.Image
    """The same with what the model predicts there."""
    mask: Bool[Tensor, "rows columns"]
    """True at the hidden patches."""

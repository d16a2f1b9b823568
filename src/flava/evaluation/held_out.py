"""Held-out data, read once: each split's images, canonical captions and labels in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from flava.data.clip_tokenizer import ClipTokenizer
from flava.data.seeding import generator
from flava.data.source import Sample, read_samples
from flava.data.tokenizer import Tokenizer
from flava.data.transforms import CODE_PIXELS, ImageTransformConfig, evaluation_pixels
from flava.model import ClipConfig, FlavaConfig


@dataclass(frozen=True, kw_only=True)
class Split:
    """A row of held-out data. ``limit`` keeps that many samples, drawn by the seed."""

    name: str
    title: str
    shards: tuple[str, ...]
    limit: int | None = None


@cache
def tokenizer() -> Tokenizer:
    """FLAVA's tokeniser: reading its vocabulary takes longer than a batch."""
    return Tokenizer()


@cache
def clip_tokenizer() -> ClipTokenizer:
    """CLIP's."""
    return ClipTokenizer()


class Texts:
    """Texts with their keys, tokenised for the model."""

    def __init__(self, keys: list[str], texts: list[str], config: FlavaConfig | ClipConfig) -> None:
        self.keys, self.texts = keys, texts
        made = clip_tokenizer() if isinstance(config, ClipConfig) else tokenizer()
        self.ids, self.real = made.batch(texts, config.text.max_length)

    ids: Int[Tensor, "texts length"]
    real: Bool[Tensor, "texts length"]


class Pairs:
    """Images with what is known of them; the canonical caption is the first of each.

    Raises:
        ValueError: a sample lacks an image, or a field of the embedded corpus' .json.
    """

    def __init__(self, samples: list[Sample], config: FlavaConfig | ClipConfig) -> None:
        self.images: list[Image.Image] = []
        self.concepts: list[str] = []
        self.groups: list[str] = []
        self.subgroups: list[str] = []
        captions = []
        for sample in samples:
            if sample.image is None:
                raise ValueError(f"sample {sample.key} has no image: evaluation needs pairs")
            try:
                captions.append(sample.meta["captions"][0])
                self.concepts.append(sample.meta["concept"])
                self.groups.append(sample.meta["group"])
                self.subgroups.append(sample.meta["subgroup"])
            except (KeyError, IndexError) as error:
                raise ValueError(
                    f"sample {sample.key} has no {error.args[0]!r} in its .json: evaluation needs "
                    "captions, concept, group and subgroup, as in the embedded corpus"
                ) from error
            self.images.append(sample.image)
        self.captions = Texts([s.key for s in samples], captions, config)
        self.transform = image_transform(config)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> list[str]:
        return self.captions.keys

    @cached_property
    def pixels(self) -> Float[Tensor, "images 3 height width"]:
        """For the image encoder."""
        return evaluation_pixels(self.images, self.transform)[0]

    @cached_property
    def codebook_pixels(self) -> Float[Tensor, "images 3 height width"]:
        """For the codebook."""
        return evaluation_pixels(self.images, self.transform)[1]

    @cached_property
    def concept_ids(self) -> Int[np.ndarray, " images"]:
        """The same number for pictures of the same thing."""
        return np.unique(self.concepts, return_inverse=True)[1]


def image_transform(config: FlavaConfig | ClipConfig) -> ImageTransformConfig:
    """What turns an image into the model's input: eight codebook pixels a side for each patch."""
    return ImageTransformConfig(
        image_size=config.image.image_size, codebook_size=config.image.grid * CODE_PIXELS
    )


class HeldOut:
    """Splits by name, each read when it is first asked for.

    Raises (on reading):
        FileNotFoundError: a shard is missing.
        ValueError: a shard or sample cannot be used; or no split has that name.
    """

    def __init__(
        self, splits: Mapping[str, Split], config: FlavaConfig | ClipConfig, seed: int
    ) -> None:
        self.rows, self.config, self.seed = splits, config, seed
        self._pairs: dict[str, Pairs] = {}
        self._texts: dict[str, Texts] = {}

    def pairs(self, name: str) -> Pairs:
        if name not in self._pairs:
            self._pairs[name] = Pairs(self._read(name), self.config)
        return self._pairs[name]

    def texts(self, name: str) -> Texts:
        if name not in self._texts:
            samples = self._read(name)
            self._texts[name] = Texts(
                [f"{i}" for i in range(len(samples))],
                [sample.meta["text"] for sample in samples],
                self.config,
            )
        return self._texts[name]

    def _read(self, name: str) -> list[Sample]:
        row = self.rows[name]
        samples = read_samples(row.shards)
        if row.limit is None or len(samples) <= row.limit:
            return samples
        rng = generator(self.seed, 0, f"subsample of {name}")
        return [samples[i] for i in sorted(rng.permutation(len(samples))[: row.limit])]

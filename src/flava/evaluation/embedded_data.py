"""The embedded corpus as evaluation reads it: its splits, classes, images and captions.

The classes are whole subgroups of Unicode's emoji, or a few that say the same thing. They, their
names and the templates were chosen by looking at the pictures, before any model was evaluated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from flava.core.randomness import random_generator
from flava.data.samples import Sample, read_samples
from flava.data.transforms import CODE_PIXELS, ImageTransformConfig, evaluation_pixels
from flava.inference.processor import default_tokenizer
from flava.models import ClipConfig, DinoConfig, FlavaConfig, MaskedImageConfig, MaskedTextConfig


@dataclass(frozen=True)
class ImageClass:
    """``names`` say the same in different words; the first is shown in the report."""

    names: tuple[str, ...]
    subgroups: tuple[str, ...]


CLASSES = (
    ImageClass(("mammal", "animal with fur"), ("animal-mammal",)),
    ImageClass(("bird", "animal with wings"), ("animal-bird",)),
    ImageClass(("sea animal", "marine animal"), ("animal-marine",)),
    ImageClass(("insect", "bug"), ("animal-bug",)),
    ImageClass(("plant", "flower", "tree"), ("plant-flower", "plant-other")),
    ImageClass(("fruit",), ("food-fruit",)),
    ImageClass(("vegetable",), ("food-vegetable",)),
    ImageClass(("meal", "prepared food", "dish"), ("food-prepared", "food-asian")),
    ImageClass(("dessert", "sweet food"), ("food-sweet",)),
    ImageClass(("drink", "beverage"), ("drink",)),
    ImageClass(("building",), ("place-building", "place-religious")),
    ImageClass(("ground vehicle", "road or rail transport"), ("transport-ground",)),
    ImageClass(("boat", "ship", "water transport"), ("transport-water",)),
    ImageClass(("aircraft", "air transport"), ("transport-air",)),
    ImageClass(("sky and weather", "moon, sun and clouds"), ("sky-weather",)),
    ImageClass(("sport", "ball or sports equipment"), ("sport",)),
    ImageClass(("clothing", "something to wear"), ("clothing",)),
    ImageClass(("musical instrument",), ("musical-instrument",)),
    ImageClass(("tool",), ("tool",)),
    ImageClass(
        ("face", "smiley face"),
        (
            "face-smiling",
            "face-affection",
            "face-tongue",
            "face-hand",
            "face-neutral-skeptical",
            "face-sleepy",
            "face-unwell",
            "face-hat",
            "face-glasses",
            "face-concerned",
            "face-negative",
        ),
    ),
)

CLASS_OF = {subgroup: i for i, each in enumerate(CLASSES) for subgroup in each.subgroups}
"""Subgroup -> index in ``CLASSES``; subgroups that are no class are left out."""

TEMPLATES = (
    "{}",
    "an emoji of {}",
    "an icon of {}",
    "a picture of {}",
    "a drawing of {}",
    "a small picture showing {}",
    "a kind of {}",
    "{}, symbol",
)


EvaluatedConfig = FlavaConfig | ClipConfig | MaskedImageConfig | MaskedTextConfig | DinoConfig
"""Geometries of the models that are evaluated."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedSplit:
    """Data that tasks are measured on or fitted on.

    ``limit`` keeps that many samples, drawn by the seed. ``after`` names another split of the same
    shards, none of whose samples are kept.
    """

    name: str
    title: str
    shards: tuple[str, ...]
    limit: int | None = None
    after: str | None = None


class TokenizedTexts:
    """Texts with their keys, tokenised for a model of that geometry when first asked for.

    ``origins`` are the names that the texts have in their shards.
    """

    def __init__(
        self,
        keys: list[str],
        texts: list[str],
        config: EvaluatedConfig,
        origins: Sequence[str] = (),
    ) -> None:
        self.keys, self.texts, self.origins, self.config = keys, texts, origins, config

    @property
    def input_ids(self) -> Int[Tensor, "texts length"]:
        return self._tokenised[0]

    @property
    def attention_mask(self) -> Bool[Tensor, "texts length"]:
        return self._tokenised[1]

    @cached_property
    def _tokenised(self) -> tuple[Tensor, Tensor]:
        config = self.config
        assert not isinstance(config, MaskedImageConfig | DinoConfig)  # tasks name what they need
        return default_tokenizer(config.text).batch(self.texts, config.text.max_length)


class EmbeddedPairs:
    """Images with their captions and labels; the canonical caption is the first of each.

    Raises:
        ValueError: a sample lacks an image; or, when it is asked for, a field of the embedded
            corpus' .json.
    """

    def __init__(self, samples: list[Sample], config: EvaluatedConfig) -> None:
        self.images: list[Image.Image] = []
        for sample in samples:
            if sample.image is None:
                raise ValueError(f"sample {sample.key} has no image: evaluation needs pairs")
            self.images.append(sample.image)
        self.samples, self.config = samples, config

    def __len__(self) -> int:
        return len(self.images)

    def field(self, name: str) -> list[Any]:
        """That field of every sample's .json."""
        for sample in self.samples:
            if sample.meta.get(name) in (None, "", []):
                raise ValueError(
                    f"sample {sample.key} has no {name!r} in its .json: evaluation needs "
                    "captions, concept, group and subgroup, as in the embedded corpus"
                )
        return [sample.meta[name] for sample in self.samples]

    @cached_property
    def keys(self) -> list[str]:
        return [sample.key for sample in self.samples]

    @cached_property
    def captions(self) -> TokenizedTexts:
        return TokenizedTexts(self.keys, [each[0] for each in self.field("captions")], self.config)

    @cached_property
    def concepts(self) -> list[str]:
        return self.field("concept")

    @cached_property
    def groups(self) -> list[str]:
        return self.field("group")

    @cached_property
    def subgroups(self) -> list[str]:
        return self.field("subgroup")

    @cached_property
    def transform(self) -> ImageTransformConfig:
        return _image_transform(self.config)

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


def _image_transform(config: EvaluatedConfig) -> ImageTransformConfig:
    """What turns an image into the model's input: eight codebook pixels a side for each patch."""
    assert not isinstance(config, MaskedTextConfig)  # tasks name what they need
    return ImageTransformConfig(
        image_size=config.image.image_size, codebook_size=config.image.grid * CODE_PIXELS
    )


class EmbeddedCorpus:
    """The splits of the embedded corpus by name, each read when it is first asked for.

    Raises (on reading):
        FileNotFoundError: a shard is missing.
        ValueError: a shard or sample cannot be used; or no split has that name.
    """

    def __init__(
        self, splits: Mapping[str, EmbeddedSplit], config: EvaluatedConfig, seed: int
    ) -> None:
        self.splits, self.config, self.seed = splits, config, seed
        self._pairs: dict[str, EmbeddedPairs] = {}
        self._texts: dict[str, TokenizedTexts] = {}

    def pairs(self, name: str) -> EmbeddedPairs:
        if name not in self._pairs:
            self._pairs[name] = EmbeddedPairs(self._read(name), self.config)
        return self._pairs[name]

    def texts(self, name: str) -> TokenizedTexts:
        if name not in self._texts:
            samples = self._read(name)
            self._texts[name] = TokenizedTexts(
                [f"{i}" for i in range(len(samples))],
                [sample.meta["text"] for sample in samples],
                self.config,
                origins=[str(sample.meta.get("key", sample.key)) for sample in samples],
            )
        return self._texts[name]

    def _read(self, name: str) -> list[Sample]:
        split = self.splits[name]
        samples = read_samples(split.shards)
        if split.limit is None or len(samples) <= split.limit:
            return samples
        start = (self.splits[split.after].limit or 0) if split.after else 0
        rng = random_generator(self.seed, 0, f"subsample of {split.after or name}")
        drawn = rng.permutation(len(samples))[start : start + split.limit]
        return [samples[i] for i in sorted(drawn)]

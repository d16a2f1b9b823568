"""What a run trains on: its sources, how they are mixed, and how samples are cut and masked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from flava.core.constraints import Fraction, config_errors
from flava.data.multi_crop import CropConfig
from flava.data.shards import resolve_all
from flava.data.tokenizers import Vocabulary
from flava.data.transforms import ImageTransformConfig

ROOT = "root:"
"""Before shards that are below ``DataConfig.root``."""

Remedy = Callable[[str], list[str]]
"""A path of shards that are not there -> lines that tell how to make them."""


def _no_remedy(_shards: str) -> list[str]:
    """For shards that nobody knows how to make."""
    return []


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of data: where it is, and how often and in how large batches it is read."""

    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Paths, globs and brace expansions; URLs as "https://host/{000..999}.tar" or "s3://..."; or
    "embedded:pairs/noto-train.tar"."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Share of the updates whose batch comes from this source, relative to the others' weights; 0
    leaves it out."""
    batch_size: PositiveInt
    """Samples in a batch, of all ranks together."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run trains on, and how it is masked. FLAVA's weights are 0.70, 0.15 and 0.15."""

    pairs: SourceConfig | None = None
    """Images with texts: tars of WebDataset samples."""
    images: SourceConfig | None = None
    """Images alone: tars or folders; of pairs their images."""
    text: SourceConfig | None = None
    """Texts alone: JSON lines with a "text" field, or plain text with a text a line; of pairs their
    captions."""
    root: str = "data"
    """The folder that "root:" in shards stands for: of the paper's data, as flava data build writes
    it. May be a URL."""
    image: ImageTransformConfig = field(default_factory=ImageTransformConfig)
    """Crops and sizes."""
    vocabulary: Vocabulary = Vocabulary.BERT
    """Whose tokens texts are cut into."""
    mask_pairs: bool = True
    """Hide patches and tokens of pairs, and exchange some of their texts. If not, pairs are whole
    and all of them match, and contrast is their only loss."""
    crops: CropConfig | None = None
    """DINO's crops: with them images alone are cut into these, instead of one crop with a mask."""
    patch_mask_fraction: Fraction = 75 / 196
    """Largest share of an image's patches that is hidden (BEiT: 75 of 196)."""
    mask_probability: Fraction = 0.15
    """Probability that a token is selected for prediction (BERT)."""
    whole_words: bool = True
    """In pairs, select whole words (TorchMultimodal); texts alone are masked piece by piece."""
    pair_max_length: Annotated[int, Field(ge=3)] = 77
    """Longest text of a pair in tokens, [CLS] and [SEP] among them; the rest is cut off."""
    text_max_length: Annotated[int, Field(ge=3)] = 512
    """Longest text alone in tokens."""
    pack_sentences: bool = False
    """Texts alone are packed: each sample holds as many of their sentences, one after another, as
    text_max_length allows (RoBERTa's FULL-SENTENCES). If not, a sample is a text, cut to it."""
    mismatch_probability: Fraction = 0.1
    """Probability that a pair's text is exchanged for another's in its batch (TorchMultimodal)."""
    workers: NonNegativeInt = 1
    """Worker processes of each rank for each source; 0 loads in the training process."""
    streams: PositiveInt = 256
    """Streams that a source too large for memory is read in, on which its order depends. With
    fewer than ranks times workers, ranks read the same shards. Each keeps a shard open, and may
    take 1 MiB of memory."""

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """The sources in use, by name, their shards without "root:"."""
        every = {"pairs": self.pairs, "images": self.images, "text": self.text}
        return {
            name: replace(source, shards=self.located(source.shards))
            for name, source in every.items()
            if source and source.weight
        }

    def missing(self, shards: tuple[str, ...], remedy: Remedy = _no_remedy) -> list[str]:
        """The shards that are not there, an error message each, with ``remedy`` below it."""
        found = []
        for shard in self.located(shards):
            try:
                resolve_all((shard,))
            except (ValueError, OSError) as error:
                found.append("\n    ".join([str(error), *remedy(shard)]))
        return found

    def located(self, shards: tuple[str, ...]) -> tuple[str, ...]:
        """Shards with the root in the place of "root:"."""
        return tuple(
            f"{self.root.rstrip('/')}/{each.removeprefix(ROOT)}" if each.startswith(ROOT) else each
            for each in shards
        )

    @property
    def weights(self) -> dict[str, float]:
        """The mixture."""
        return {name: source.weight for name, source in self.sources.items()}

    def problems(self, remedy: Remedy = _no_remedy) -> list[str]:
        """Everything that is wrong, one line each; whether the shards are there is checked too.

        ``remedy`` tells how missing shards are made.
        """
        found = config_errors(self)
        if not self.sources:
            found.append("no source: give one of pairs, images and text a weight")
        for name, source in self.sources.items():
            found += [f"{name}.shards: {each}" for each in self.missing(source.shards, remedy)]
        if self.vocabulary is not Vocabulary.BERT:
            without = "CLIP's vocabulary has no [MASK]"
            if "pairs" in self.sources and self.mask_pairs:
                found.append(f"mask_pairs is True, but {without}: set it to False")
            if "text" in self.sources:
                found.append(f"text is set, and is masked, but {without}: leave it out")
        return found

    def sharing_problems(self, world: int) -> list[str]:
        """The batches that ``world`` ranks cannot share equally, a line each."""
        return [
            f"{name}.batch_size is {source.batch_size}: use a multiple of the number of ranks, "
            f"{world}"
            for name, source in self.sources.items()
            if source.batch_size % world
        ]

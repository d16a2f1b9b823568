"""The data settings of a run: its sources and their mixture, and how samples are cropped, cut and
masked."""

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
    """One source of data: where it is, how often it is used, and its batch size."""

    shards: Annotated[tuple[str, ...], Field(min_length=1)]
    """Paths, which may have globs and braces; URLs such as "https://host/{000..999}.tar" or
    "s3://..."; or "embedded:pairs/noto-train.tar" for the corpus that comes with this package."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Share of the steps whose batch comes from this source, relative to the weights of the other
    sources. 0 leaves the source out."""
    batch_size: PositiveInt
    """Samples in a batch, of all ranks together."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data of a run, and how it is masked. FLAVA weighs pairs, images and text 0.70, 0.15,
    0.15."""

    pairs: SourceConfig | None = None
    """Images with texts: tars of WebDataset samples."""
    images: SourceConfig | None = None
    """Images without texts: tars or folders. Of shards of pairs, the images are used."""
    text: SourceConfig | None = None
    """Texts without images: JSON lines with a "text" field, or plain text with one text per line.
    Of shards of pairs, the captions are used."""
    root: str = "data"
    """The folder, or a URL, that "root:" in shards stands for: there the recipes of the paper look
    for the shards that flava data build writes."""
    image: ImageTransformConfig = field(default_factory=ImageTransformConfig)
    """Crops, augmentation and sizes of images."""
    vocabulary: Vocabulary = Vocabulary.BERT
    """Vocabulary that texts are tokenised with: bert (FLAVA's) or clip."""
    mask_pairs: bool = True
    """Mask patches and tokens of pairs, and exchange some of their texts. Otherwise pairs are
    whole, all of them match, and the contrastive loss is their only one."""
    crops: CropConfig | None = None
    """DINO's crops. If they are set, each image without text is cut into these crops instead of a
    single masked one."""
    patch_mask_fraction: Fraction = 75 / 196
    """Largest share of an image's patches that is masked (BEiT: 75 of 196)."""
    mask_probability: Fraction = 0.15
    """Probability that a token is selected for prediction (BERT)."""
    whole_words: bool = True
    """In the texts of pairs, select whole words (TorchMultimodal). Texts without images are always
    masked token by token."""
    pair_max_length: Annotated[int, Field(ge=3)] = 77
    """Most tokens of a pair's text, [CLS] and [SEP] included; longer texts are truncated."""
    text_max_length: Annotated[int, Field(ge=3)] = 512
    """Most tokens of a text without image, [CLS] and [SEP] included."""
    pack_sentences: bool = False
    """Fill each sample with as many consecutive sentences of the texts without images as
    text_max_length allows (RoBERTa's FULL-SENTENCES). Otherwise a sample is one text, truncated to
    this length."""
    mismatch_probability: Fraction = 0.1
    """Probability that the text of a pair is replaced by another text of the batch
    (TorchMultimodal)."""
    workers: NonNegativeInt = 1
    """Worker processes of each rank for each source; with 0 the training process loads the data."""
    streams: PositiveInt = 256
    """Number of streams in which a source that does not fit in memory is read; the order of its
    samples depends on it. With fewer streams than ranks times workers, several ranks read the same
    shards. Each stream keeps a shard open, and may take 1 MiB of memory."""

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

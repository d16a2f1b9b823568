"""The loader: one batch for each update, from worker processes, and the same again on resuming."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from flava.core import distributed
from flava.core.batch import Batch
from flava.data import mixture
from flava.data.collate import (
    CodedImageCollator,
    ImageCollator,
    PackedCollator,
    PairCollator,
    TextCollator,
    WholePairCollator,
)
from flava.data.errors import SkippedSample
from flava.data.full_sentences import PackedReader
from flava.data.masking import TokenMasker
from flava.data.multi_crop import CropCollator, CropConfig
from flava.data.remote import Shard
from flava.data.samples import caption_of, text_of
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.skips import SkipCounter
from flava.data.streaming import (
    SourcePositions,
    StreamedWindows,
    StreamLayout,
    StreamPosition,
    StreamPositions,
    fits_in_memory,
    small_windows,
)
from flava.data.tokenizers import ClipTokenizer, Tokenizer, Vocabulary
from flava.data.transforms import ImageTransformConfig
from flava.data.workers import Batches, Windows, too_many_streams

ROOT = "root:"
"""Before shards that are below ``DataConfig.root``."""

Remedy = Callable[[str], list[str]]
"""A path of shards that are not there -> lines that tell how to make them."""


def no_remedy(_shards: str) -> list[str]:
    """Nothing is known of how to make any shards."""
    return []


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One kind of data."""

    shards: tuple[str, ...]
    """Paths, globs and brace expansions; URLs as "https://host/{000..999}.tar" or "s3://..."; or
    "embedded:pairs/noto-train.tar"."""
    weight: float
    """Share of the updates whose batch comes from this source, relative to the others' weights; 0
    leaves it out."""
    batch_size: int
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
    patch_mask_fraction: float = 75 / 196
    """Largest share of an image's patches that is hidden (BEiT: 75 of 196)."""
    mask_probability: float = 0.15
    """Probability that a token is selected for prediction (BERT)."""
    whole_words: bool = True
    """In pairs, select whole words (TorchMultimodal); texts alone are masked piece by piece."""
    pair_max_length: int = 77
    """Longest text of a pair in tokens, [CLS] and [SEP] among them; the rest is cut off."""
    text_max_length: int = 512
    """Longest text alone in tokens."""
    pack_sentences: bool = False
    """Texts alone are packed: each sample holds as many of their sentences, one after another, as
    text_max_length allows (RoBERTa's FULL-SENTENCES). If not, a sample is a text, cut to it."""
    mismatch_probability: float = 0.1
    """Probability that a pair's text is exchanged for another's in its batch (TorchMultimodal)."""
    workers: int = 1
    """Worker processes of each rank for each source; 0 loads in the training process."""
    streams: int = 256
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

    def missing(self, shards: tuple[str, ...], remedy: Remedy = no_remedy) -> list[str]:
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

    def problems(self, remedy: Remedy = no_remedy) -> list[str]:
        """Every mistake, a sentence each with the field and its value; looks for the shards too.

        ``remedy`` tells how missing shards are made.
        """
        found = [] if self.sources else ["no source: give one of pairs, images and text a weight"]
        for name, source in self.sources.items():
            found += _source_problems(name, source)
            found += [f"{name}.shards: {each}" for each in self.missing(source.shards, remedy)]
        for name in ("patch_mask_fraction", "mask_probability", "mismatch_probability"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name} = {getattr(self, name)}: must be between 0 and 1")
        for name in ("pair_max_length", "text_max_length"):
            if getattr(self, name) < 3:
                found.append(
                    f"{name} = {getattr(self, name)}: must be at least 3 ([CLS], a token, [SEP])"
                )
        found += self._mask_problems()
        if self.workers < 0:
            found.append(f"workers = {self.workers}: must be 0 (no worker process) or more")
        if self.streams < 1:
            found.append(f"streams = {self.streams}: must be at least 1")
        found += [f"image.{problem}" for problem in self.image.problems()]
        crops = [] if self.crops is None else self.crops.problems()
        return found + [f"crops.{problem}" for problem in crops]

    def sharing_problems(self, world: int) -> list[str]:
        """The batches that ``world`` ranks cannot share equally, a sentence each."""
        return [
            f"{name}.batch_size = {source.batch_size}: must be a multiple of the number of ranks, "
            f"{world}"
            for name, source in self.sources.items()
            if source.batch_size % world
        ]

    def _mask_problems(self) -> list[str]:
        """What would be masked without a [MASK]."""
        if self.vocabulary is Vocabulary.BERT:
            return []
        without = "CLIP's vocabulary has no [MASK]"
        found = []
        if "pairs" in self.sources and self.mask_pairs:
            found.append(f"mask_pairs = True, but {without}: set it to False")
        if "text" in self.sources:
            found.append(f"text is set, and is masked, but {without}: leave it out")
        return found


def _source_problems(name: str, source: SourceConfig) -> list[str]:
    found = []
    if not 0 < source.weight < float("inf"):
        found.append(f"{name}.weight = {source.weight}: must be positive, or 0 (left out)")
    if source.batch_size < 1:
        found.append(f"{name}.batch_size = {source.batch_size}: must be at least 1")
    if not source.shards:
        found.append(f"{name}.shards is empty: name at least one shard")
    return found


class Loader(Iterator[Batch], AbstractContextManager["Loader"]):
    """An endless iterator over a rank's part of the batches: ``accumulate`` of one source for each
    update.

    The source of an update is a pure function of ``seed`` and its step, and each source's samples,
    crops and masks are pure functions of ``seed`` and the batch's number. So a loader that starts
    at ``start_step`` yields what an uninterrupted one yields from there on, given the same config,
    and the ranks' parts together hold the same samples whatever their number is. Only the exchange
    of texts in pairs, and which spares fill the places of corrupt samples, depend on the rank.

    ``rank`` and ``world`` are this process's unless given. ``marks`` are those of an earlier loader
    of the same run, or of several ranks' joined: then a streamed source is not read again from the
    beginning.

    ``skipped[name]`` counts the reasons for which samples of a source were left out; the first ten
    of each source are named in the log.

    Raises:
        ValueError: the config has mistakes (all are listed); while iterating, most samples of a
            source are corrupt.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        seed: int,
        start_step: int = 0,
        accumulate: int = 1,
        rank: int | None = None,
        world: int | None = None,
        marks: SourcePositions | None = None,
    ) -> None:
        rank = distributed.rank() if rank is None else rank
        world = distributed.world_size() if world is None else world
        problems = config.problems() + config.sharing_problems(world)
        problems += [f"seed = {seed}: must not be negative"] if seed < 0 else []
        problems += [f"start_step = {start_step}: must not be negative"] if start_step < 0 else []
        problems += [f"accumulate = {accumulate}: must be at least 1"] if accumulate < 1 else []
        if problems:
            raise ValueError("the data cannot be loaded:\n" + "\n".join(f"- {p}" for p in problems))
        self._skips = {
            name: SkipCounter(name, f"data.{name}", f"check {name}.shards")
            for name in config.sources
        }
        self.skipped: dict[str, Counter[str]] = {n: s.counts for n, s in self._skips.items()}
        self._seed, self._weights = seed, config.weights
        self._step, self._part, self._accumulate = start_step, 0, accumulate
        self._marks: dict[str, dict[int, StreamPosition]] = {
            name: dict((marks or {}).get(name, {})) for name in config.sources
        }
        before = mixture.counts_before(seed, start_step, config.weights)
        tokenizer = config.vocabulary.tokenizer()
        self._sources = {}
        for name, source in config.sources.items():
            read = _reader(config, name, tokenizer)
            windows, turns = _windows(source, read, seed, config.streams, self._marks[name])
            _check_open_files(name, windows, world, config.workers)
            self._sources[name] = Batches(
                windows=windows,
                collator=_collator(config, name, tokenizer),
                seed=seed,
                first=before[name] * accumulate,
                turns=turns,
                rank=rank,
                world=world,
            ).start(config.workers)

    def __next__(self) -> Batch:
        name = mixture.choose(self._seed, self._step, self._weights)
        if name not in self._sources:  # closed
            raise StopIteration
        collated = next(self._sources[name])
        batch = self._skips[name].batch_of(collated)
        self._marks[name].update(collated.marks)
        self._part += 1
        if self._part == self._accumulate:
            self._step, self._part = self._step + 1, 0
        return batch

    def marks(self) -> dict[str, dict[int, StreamPosition]]:
        """By source: where the streams stand that this rank has read, or a little before."""
        return {name: dict(marks) for name, marks in self._marks.items()}

    def close(self) -> None:
        """Ends the worker processes; the loader yields nothing afterwards."""
        self._sources.clear()

    def __exit__(self, *_error: object) -> None:
        self.close()


def _check_open_files(name: str, windows: Windows, world: int, workers: int) -> None:
    """Raises ValueError: a process cannot keep a shard of each of its streams open."""
    if isinstance(windows, StreamedWindows):
        streams = windows.layout.streams_of(world=world, workers=workers)
        if said := too_many_streams(streams):
            raise ValueError(f"data.{name} cannot be loaded: {said}")


def _windows(
    source: SourceConfig,
    read: Callable[[Shard], Iterator[RawSample | SkippedSample]] | PackedReader,
    seed: int,
    streams: int,
    marks: StreamPositions,
) -> tuple[Windows, int | None]:
    """The windows of a source, and in how many turns they are made if that matters."""
    paths, size = resolve_all(source.shards), source.batch_size
    if fits_in_memory(paths):
        return partial(small_windows, paths, read, batch_size=size, seed=seed), None
    layout = StreamLayout.of(streams=streams, shards=len(paths), batch_size=size)
    windows = StreamedWindows(
        paths=paths, read=read, batch_size=size, seed=seed, layout=layout, marks=marks
    )
    return windows, layout.turns


def _reader(
    config: DataConfig, name: str, tokenizer: Tokenizer | ClipTokenizer
) -> Callable[[Shard], Iterator[RawSample | SkippedSample]] | PackedReader:
    if name == "text" and config.pack_sentences:
        assert isinstance(tokenizer, Tokenizer)  # nothing reads texts alone in CLIP's tokens
        return PackedReader(tokenizer=tokenizer, length=config.text_max_length)
    return read_shard


def _collator(
    config: DataConfig, name: str, tokenizer: Tokenizer | ClipTokenizer
) -> (
    ImageCollator
    | CodedImageCollator
    | CropCollator
    | TextCollator
    | PackedCollator
    | PairCollator
    | WholePairCollator
):
    if name == "pairs" and not config.mask_pairs:
        return WholePairCollator(config.image, tokenizer, config.pair_max_length)
    if name == "images" and config.crops is not None:
        return CropCollator(config.crops)
    with_codes = config.image.stored_codes is not None
    images_as = CodedImageCollator if with_codes else ImageCollator
    images = images_as(config.image, config.patch_mask_fraction)
    if name == "images":
        return images
    assert isinstance(tokenizer, Tokenizer)  # see _mask_problems
    whole_words = config.whole_words and name == "pairs"
    masker = TokenMasker.of(tokenizer, config.mask_probability, whole_words=whole_words)
    if name == "text" and config.pack_sentences:
        return PackedCollator(tokenizer.pad, masker)
    if name == "text":
        return TextCollator(tokenizer, config.text_max_length, masker, text_of)
    texts = TextCollator(tokenizer, config.pair_max_length, masker, caption_of)
    return PairCollator(images, texts, config.mismatch_probability)

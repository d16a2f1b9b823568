"""The loader of training batches; `flava.data` explains how a batch is made."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.errors import SkippedSample
from flava.data.full_sentences import PackedReader
from flava.data.masking import TokenMasker
from flava.data.multi_crop import CropCollator
from flava.data.remote import Shard
from flava.data.samples import caption_of, text_of
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.skips import SkipCounter
from flava.data.streaming import (
    SourcePositions,
    StreamedBatches,
    StreamLayout,
    StreamPosition,
    StreamPositions,
    batches_of_small_source,
    fits_in_memory,
)
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.data.workers import RawBatches, SourceBatches, too_many_streams


class Loader(Iterator[Batch], AbstractContextManager["Loader"]):
    """An endless iterator over a rank's part of the batches: ``accumulate`` of one source for each
    step.

    The source of a step is a pure function of ``seed`` and the step, and the samples, crops and
    masks of a source's batch are pure functions of ``seed`` and the batch's number. So a loader
    that starts at ``start_step`` yields what an uninterrupted one yields from there on, given the
    same config, and the ranks' parts together hold the same samples whatever their number is. Only
    the exchange of texts in pairs, and which spares replace corrupt samples, depend on the rank.

    ``rank`` and ``world`` are this process's unless given. ``positions`` are those of an earlier
    loader of the same run, or of several ranks joined: with them a streamed source is not read
    again from the beginning.

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
        positions: SourcePositions | None = None,
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
        self._positions: dict[str, dict[int, StreamPosition]] = {
            name: dict((positions or {}).get(name, {})) for name in config.sources
        }
        before = mixture.counts_before(seed, start_step, config.weights)
        tokenizer = config.vocabulary.tokenizer()
        self._sources = {}
        for name, source in config.sources.items():
            read = _reader(config, name, tokenizer)
            raw_batches, groups = _raw_batches(
                source, read, seed, config.streams, self._positions[name]
            )
            _check_open_files(name, raw_batches, world, config.workers)
            self._sources[name] = SourceBatches(
                raw_batches=raw_batches,
                collator=_collator(config, name, tokenizer),
                seed=seed,
                first=before[name] * accumulate,
                groups=groups,
                rank=rank,
                world_size=world,
            ).start(config.workers)

    def __next__(self) -> Batch:
        name = mixture.choose(self._seed, self._step, self._weights)
        if name not in self._sources:  # closed
            raise StopIteration
        collated = next(self._sources[name])
        batch = self._skips[name].batch_of(collated)
        self._positions[name].update(collated.positions)
        self._part += 1
        if self._part == self._accumulate:
            self._step, self._part = self._step + 1, 0
        return batch

    def positions(self) -> dict[str, dict[int, StreamPosition]]:
        """By source: where the streams stand that this rank has read, or a little before."""
        return {name: dict(positions) for name, positions in self._positions.items()}

    def close(self) -> None:
        """Ends the worker processes; the loader yields nothing afterwards."""
        self._sources.clear()

    def __exit__(self, *_error: object) -> None:
        self.close()


def _check_open_files(name: str, raw_batches: RawBatches, world: int, workers: int) -> None:
    """Raises ValueError: a process cannot keep a shard of each of its streams open."""
    if isinstance(raw_batches, StreamedBatches):
        streams = raw_batches.layout.streams_per_worker(world_size=world, workers=workers)
        if problem := too_many_streams(streams):
            raise ValueError(f"data.{name} cannot be loaded: {problem}")


def _raw_batches(
    source: SourceConfig,
    read: Callable[[Shard], Iterator[RawSample | SkippedSample]] | PackedReader,
    seed: int,
    streams: int,
    positions: StreamPositions,
) -> tuple[RawBatches, int | None]:
    """A source's batches before decoding, and the number of groups if it is read in streams."""
    paths, size = resolve_all(source.shards), source.batch_size
    if fits_in_memory(paths):
        return partial(batches_of_small_source, paths, read, batch_size=size, seed=seed), None
    layout = StreamLayout.of(streams=streams, shards=len(paths), batch_size=size)
    streamed = StreamedBatches(
        paths=paths, read=read, batch_size=size, seed=seed, layout=layout, positions=positions
    )
    return streamed, layout.groups


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
    assert isinstance(tokenizer, Tokenizer)  # DataConfig checks it
    whole_words = config.whole_words and name == "pairs"
    masker = TokenMasker.of(tokenizer, config.mask_probability, whole_words=whole_words)
    if name == "text" and config.pack_sentences:
        return PackedCollator(tokenizer.pad, masker)
    if name == "text":
        return TextCollator(tokenizer, config.text_max_length, masker, text_of)
    texts = TextCollator(tokenizer, config.pair_max_length, masker, caption_of)
    return PairCollator(images, texts, config.mismatch_probability)

"""Full sentences packed to the length of a model's input: RoBERTa's FULL-SENTENCES.

As Liu et al. 2019, section 4.2: each sequence holds whole sentences, as they follow each other in
one or more documents, as many as fit; a separator stands between documents. It is [CLS], sentences
with a [SEP] at each document's end, and a [SEP] at its own end.

A shard's sequences depend on the shard alone, not on seed, epoch or worker: documents are packed in
the order of the file. So sequences are read as samples are, in an order that is drawn anew in each
epoch (`streaming`), and their masks are drawn by (seed, epoch, key) as those of any text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from flava.core.randomness import random_generator
from flava.data.errors import SampleError, SkippedSample
from flava.data.remote import Shard
from flava.data.samples import skip_sample, text_of
from flava.data.shards import RawSample, read_shard, skip_shard
from flava.data.tokenizers import Tokenizer

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
"""Texts are divided at new lines, and at white space after a full stop, "!" or "?". Divisions after
abbreviations do no harm: they are only more places at which a sequence may end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A packed sequence; ``key`` names the document and the token of it that it begins with."""

    shard: str
    key: str
    ids: Int32[np.ndarray, " length"]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.ids.nbytes


@dataclass(frozen=True)
class Document:
    """The ids of each sentence, without special tokens."""

    key: str
    sentences: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class PackedReader:
    """A shard -> its sequences of at most ``length`` tokens, the special ones among them."""

    tokenizer: Tokenizer
    length: int

    def __call__(self, path: Shard) -> Iterator[Packed | SkippedSample]:
        """In the order of the file, with a ``SkippedSample`` where a document cannot be used."""
        skipped: list[SkippedSample] = []
        documents = self._documents(read_shard(path), skipped)
        empty = True
        for key, ids in _pack(documents, self.length, self.tokenizer.cls, self.tokenizer.sep):
            yield from _emptied(skipped)
            yield Packed(shard=path.name, key=key, ids=np.array(ids, dtype=np.int32))
            empty = False
        if empty and not skipped:
            yield skip_shard(path, "shard is empty", "no text in it has a token")
        yield from _emptied(skipped)

    def _documents(
        self, samples: Iterable[RawSample | SkippedSample], skipped: list[SkippedSample]
    ) -> Iterator[Document]:
        for sample in samples:
            if isinstance(sample, SkippedSample):
                skipped.append(sample)
                continue
            try:
                # Of an image's captions the same one is drawn in each epoch.
                text = text_of(sample, random_generator(0, 0, f"{sample.shard}/{sample.key}"))
                yield Document(sample.key, list(self._sentences(text)))
            except SampleError as error:
                skipped.append(skip_sample(sample, error))

    def _sentences(self, text: str) -> Iterator[list[int]]:
        for sentence in SENTENCE_END.split(text):
            if ids := self.tokenizer.pieces(sentence):
                yield ids


def _pack(
    documents: Iterable[Document], length: int, cls: int, sep: int
) -> Iterator[tuple[str, list[int]]]:
    """Sequences of at most ``length`` tokens with their keys; ``length`` must be at least 3.

    No token is lost, doubled or moved. A sentence goes whole into one sequence, but for one that is
    longer than a sequence: that one is cut into pieces, the first of which begins a sequence.
    """
    room = length - 2  # between [CLS] and the last [SEP]
    key, open_ids, last = "", [], ""
    for document in documents:
        offset = 0
        for sentence in document.sentences:
            for start in range(0, len(sentence), room):
                piece = sentence[start : start + room]
                separator = [sep] if open_ids and last != document.key else []
                if len(open_ids) + len(separator) + len(piece) > room:
                    yield key, [cls, *open_ids, sep]
                    open_ids, separator = [], []
                if not open_ids:
                    key = f"{document.key}@{offset}"
                open_ids += separator + piece
                offset, last = offset + len(piece), document.key
    if open_ids:
        yield key, [cls, *open_ids, sep]


def _emptied(skipped: list[SkippedSample]) -> Iterator[SkippedSample]:
    while skipped:
        yield skipped.pop(0)

"""Packing beside its definition: nothing lost, doubled or moved; and a source that is packed."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.core.batch import TextBatch
from flava.data import streaming
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.errors import SkippedSample
from flava.data.full_sentences import Document, Packed, PackedReader, _pack
from flava.data.loader import Loader
from flava.data.tokenizers import Tokenizer
from tests.data.shard_files import pair_files, write_lines, write_tar
from tests.data.test_loader import all_same, take

TOKENIZER = Tokenizer()
CLS, SEP = 101, 102
SENTENCES = st.lists(st.integers(1, 99), min_size=1, max_size=9)
DOCUMENTS = st.lists(st.lists(SENTENCES, max_size=5), max_size=8)


def named(every: list[list[list[int]]]) -> list[Document]:
    return [Document(f"d{number}", sentences) for number, sentences in enumerate(every)]


def packed(documents: list[Document], length: int) -> list[tuple[str, list[int]]]:
    return list(_pack(documents, length, CLS, SEP))


def words(documents: list[Document]) -> list[int]:
    return [token for d in documents for sentence in d.sentences for token in sentence]


@given(DOCUMENTS, st.integers(3, 16))
def test_no_token_is_lost_doubled_or_moved(every, length):
    documents = named(every)
    sequences = [input_ids for _, input_ids in packed(documents, length)]
    assert [t for input_ids in sequences for t in input_ids if t not in (CLS, SEP)] == words(
        documents
    )
    for input_ids in sequences:
        assert 3 <= len(input_ids) <= length
        assert (input_ids[0], input_ids[-1]) == (CLS, SEP)
        assert CLS not in input_ids[1:]


@given(DOCUMENTS, st.integers(3, 16))
def test_a_separator_stands_between_documents_and_nowhere_else(every, length):
    """By another way: every token with its document; where that changes there is one separator."""
    documents = named(every)
    owners = [d.key for d in documents for sentence in d.sentences for _ in sentence]
    place = 0
    for _, input_ids in packed(documents, length):
        inside = input_ids[1:-1]
        count = len([t for t in inside if t != SEP])
        mine = owners[place : place + count]
        parts = [len(list(run)) for _, run in itertools.groupby(mine)]
        found = [
            len(list(run))
            for is_word, run in itertools.groupby(t != SEP for t in inside)
            if is_word
        ]
        assert found == parts
        assert inside.count(SEP) == len(parts) - 1
        place += count


@given(DOCUMENTS, st.integers(3, 16))
def test_sentences_are_whole_and_sequences_full(every, length):
    """A sequence ends within a sentence only if that is too long, else the next did not fit."""
    documents = named(every)
    room = length - 2
    starts, ends, place = {}, {}, 0
    for d in documents:
        for sentence in d.sentences:
            starts[place] = (d.key, sentence)
            ends[place + len(sentence)] = d.key
            place += len(sentence)
    place = 0
    for _, input_ids in packed(documents, length):
        place += len([t for t in input_ids if t not in (CLS, SEP)])
        if place in starts:
            key, sentence = starts[place]
            separator = ends[place] != key
            first_piece = min(len(sentence), room)
            assert len(input_ids) - 2 + separator + first_piece > room
        elif place < len(words(documents)):
            before = max(start for start in starts if start < place)
            assert len(starts[before][1]) > room


@given(DOCUMENTS, st.integers(3, 16))
def test_a_key_names_the_token_that_a_sequence_begins_with(every, length):
    documents = named(every)
    tokens = {d.key: words([d]) for d in documents}
    keys = []
    for key, input_ids in packed(documents, length):
        name, offset = key.split("@")
        assert tokens[name][int(offset)] == input_ids[1]
        keys.append(key)
    assert len(set(keys)) == len(keys)


def read(path: Path, length: int) -> list[Packed | SkippedSample]:
    return list(PackedReader(tokenizer=TOKENIZER, length=length)(path))


def sequences(path: Path, length: int) -> list[list[int]]:
    return [item.ids.tolist() for item in read(path, length) if isinstance(item, Packed)]


TEXTS = [
    "One sentence. Another, with Mr. Brown in it! A third?\nA line\n\n  and one more  ",
    "é ü 中文。 A Chinese full stop is none of ours...  Is it?",
    "no end",
]


@pytest.mark.parametrize("length", [3, 8, 20, 512])
def test_the_tokens_are_those_of_the_whole_texts(tmp_path, length):
    """Dividing a text into sentences changes no token of it."""
    path = write_lines(tmp_path / "a.jsonl", TEXTS)
    found = [
        t for input_ids in sequences(path, length) for t in input_ids[1:-1] if t != TOKENIZER.sep
    ]
    assert found == [t for text in TEXTS for t in TOKENIZER.encode(text, 10_000)[1:-1]]


def test_a_text_of_ten_thousand_words_fills_its_sequences(tmp_path):
    text = "word " * 10_000
    found = sequences(write_lines(tmp_path / "a.jsonl", [text, "short"]), 64)
    assert [len(input_ids) for input_ids in found[:-1]] == [64] * (10_000 // 62)
    assert len(found[-1]) == 1 + 10_000 % 62 + 1 + 1 + 1
    assert TOKENIZER.decode(found[-1]).endswith("word short")


def test_what_cannot_be_used_is_reported_in_its_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "first"}\n{"text": " "}\n\xff\n{"text": "last"}\n')
    found = read(path, 16)
    assert [i.key for i in found if isinstance(i, SkippedSample)] == ["a.jsonl:2", "a.jsonl:3"]
    (whole,) = (i for i in found if isinstance(i, Packed))
    assert TOKENIZER.decode(whole.ids.tolist()) == "first last"


def test_a_shard_without_a_token_is_reported(tmp_path):
    shard = write_lines(tmp_path / "a.jsonl", ["\u200b"])
    (report,) = PackedReader(tokenizer=TOKENIZER, length=10)(shard)
    assert isinstance(report, SkippedSample)
    assert report.reason == "shard is empty"


# As a source


@pytest.fixture(params=["memory", "streamed"])
def config(request, tmp_path, monkeypatch) -> DataConfig:
    if request.param == "streamed":
        monkeypatch.setattr(streaming, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(streaming, "BUFFER_BYTES", 8 * streaming.SAMPLE_OVERHEAD_BYTES)
    rng = np.random.default_rng(0)
    for shard in range(3):
        texts = [
            " ".join(f"word{n}." if n % 4 else f"and {n}" for n in range(int(rng.integers(1, 40))))
            for _ in range(9)
        ]
        write_lines(tmp_path / f"{shard}.jsonl", texts)
    return DataConfig(
        text=SourceConfig(shards=(str(tmp_path / "*.jsonl"),), weight=1.0, batch_size=4),
        mask_probability=0.3,
        text_max_length=24,
        pack_sentences=True,
        workers=0,
    )


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("start", [1, 7, 20])
def test_a_resumed_source_goes_on_exactly_where_it_was(config, workers, start):
    config = replace(config, workers=workers)
    through = take(config, start + 6)
    assert all_same(take(config, 6, start_step=start), through[start:])


def test_the_batches_do_not_depend_on_the_workers(config):
    assert all_same(take(config, 12), take(replace(config, workers=3), 12))


def test_a_sequence_is_masked_anew_each_time_it_is_seen(config):
    """Dynamic masking (Liu et al. 2019, section 4.1); what is hidden is all that changes."""
    seen: dict[tuple[str, ...], list[tuple[bool, ...]]] = {}
    for batch in take(config, 150):
        assert isinstance(batch, TextBatch)
        for row, key in enumerate(batch.keys):
            input_ids = tuple(batch.input_ids[row][batch.attention_mask[row]].tolist())
            masks = seen.setdefault((key, *map(str, input_ids)), [])
            masks.append(tuple(batch.token_mask[row][batch.attention_mask[row]].tolist()))
    long = [masks for input_ids, masks in seen.items() if len(input_ids) > 20 and len(masks) >= 4]
    assert len(long) > 10
    assert all(len(set(masks)) >= len(masks) - 1 for masks in long)


def test_special_tokens_within_a_sequence_are_never_hidden(config):
    inner = 0
    for batch in take(replace(config, mask_probability=1.0), 5):
        assert isinstance(batch, TextBatch)
        special = (batch.input_ids == TOKENIZER.sep) | (batch.input_ids == TOKENIZER.cls)
        inner += int((special.sum(dim=1) - 2).sum())
        assert not (batch.token_mask & special).any()
        assert (batch.token_mask == (batch.attention_mask & ~special)).all()
    assert inner > 0


# The captions and images of pairs, alone


@pytest.fixture
def pairs(tmp_path) -> SourceConfig:
    shard = write_tar(tmp_path / "pairs.tar", pair_files(range(12)))
    return SourceConfig(shards=(str(shard),), weight=1.0, batch_size=6)


def test_a_source_of_texts_reads_the_captions_of_pairs(pairs):
    found = set()
    for batch in take(DataConfig(text=pairs, workers=0), 20):
        assert isinstance(batch, TextBatch)
        for key, input_ids, attention_mask in zip(
            batch.keys, batch.input_ids, batch.attention_mask, strict=True
        ):
            text = TOKENIZER.decode(input_ids[attention_mask].tolist())
            assert text in (f"picture number {int(key)}", f"the {int(key)} th one")
            found.add((key, text))
    assert len(found) == 24  # of several captions one at random


def test_a_source_of_images_reads_the_images_of_pairs(pairs):
    seen = {key for batch in take(DataConfig(images=pairs, workers=0), 2) for key in batch.keys}
    assert seen == {f"{number:05d}" for number in range(12)}


def test_images_without_texts_are_no_source_of_texts(tmp_path, pairs):
    files = {n: d for n, d in pair_files(range(5)).items() if n.endswith("png")}
    shard = write_tar(tmp_path / "images.tar", files)
    data = DataConfig(text=replace(pairs, shards=(str(shard),)), workers=0)
    with Loader(data, seed=0) as loader, pytest.raises(ValueError, match=re.escape("has no text")):
        next(loader)

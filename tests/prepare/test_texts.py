"""One build of texts serves all recipes that read it."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flava.core.batch import TextBatch
from flava.data import streaming
from flava.data.data_config import DataConfig
from flava.data.full_sentences import PackedReader
from flava.data.loader import Loader
from flava.data.shards import resolve_all
from flava.data.tokenizers import Tokenizer
from flava.models import Flava
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.prepare.texts import PASSAGE
from flava.recipes import RECIPES
from flava.recipes.start import _how_to_build
from tests.commands import Command, in_this_process
from tests.support import tiny_config

TOKENIZER = Tokenizer()
LENGTH = 24
NAMES = ["text-mlm", "flava"]


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def news() -> list[str]:
    """Documents of one to thirty sentences, some of which no sign ends, one longer than a sequence;
    words tell where they are from."""
    rng = np.random.default_rng(0)
    ends = (". ", "! ", "\n", "? ")
    return [
        "".join(
            f"News {number} says {' '.join(f'w{each}' for each in range(int(rng.integers(1, 20))))}"
            f"{ends[int(rng.integers(4))]}"
            for _ in range(int(rng.integers(1, 30)))
        ).strip()
        for number in range(60)
    ]


def books() -> list[str]:
    """Sentences of one book after another, as BookCorpus has them, in more rows than a passage."""
    return [f"this is `` line {number} '' of {number % 7} books" for number in range(3 * PASSAGE)]


@pytest.fixture
def root(flava: Command, tmp_path: Path) -> Path:
    """The folder of the paper's data, built by the commands that are printed without it."""
    (tmp_path / "news.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in news())
    )
    (tmp_path / "books.txt").write_text("\n".join(books()))
    files = {"ccnews": tmp_path / "news.jsonl", "bookcorpus": tmp_path / "books.txt"}
    printed = set[str]()
    for name in NAMES:
        data = replace(RECIPES[name]().data, root=str(tmp_path / "data"), images=None, pairs=None)
        problems = "\n".join(data.problems(partial(_how_to_build, data.root)))
        commands = [line for line in problems.split("\n") if "data build" in line]
        assert len(commands) == 2
        printed |= {line.split("  (")[0].strip() for line in commands}
    assert len(printed) == 2  # the same for both recipes
    for command in sorted(printed):
        program, *arguments = command.split()
        given = [files[arguments[2]] if each == "FILES" else each for each in arguments]
        ended = flava(*given, "--processes", 1, "--rows-per-shard", 2 * PASSAGE)
        assert (program, ended.status) == ("flava", 0), ended.error
    return tmp_path / "data"


def texts_of(name: str, root: Path) -> DataConfig:
    """What the recipe reads of texts alone, in batches and sequences of a small model."""
    data = RECIPES[name]().data
    assert data.text is not None
    text = replace(data.text, batch_size=1)
    return replace(
        data, pairs=None, images=None, text=text, root=str(root), text_max_length=LENGTH, workers=0
    )


def sequences(data: DataConfig) -> int:
    """In an epoch."""
    read = PackedReader(tokenizer=TOKENIZER, length=LENGTH)
    return sum(1 for path in resolve_all(data.sources["text"].shards) for _ in read(path))


@pytest.mark.parametrize("way", ["memory", "streamed"])
@pytest.mark.parametrize("name", NAMES)
def test_no_token_is_lost_or_doubled_in_an_epoch(
    name: str, way: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "streamed":
        monkeypatch.setattr(streaming, "IN_MEMORY_BYTES", 0)
    data = replace(texts_of(name, root), streams=1)
    count = sequences(data)
    seen, lengths = Counter[int](), []
    with Loader(data, seed=3) as loader:
        for _ in range(count):
            batch = next(loader)
            assert isinstance(batch, TextBatch)
            ids = batch.input_ids[batch.attention_mask].tolist()
            seen.update(ids)
            lengths.append(len(ids))
    expected = Counter(t for text in [*news(), *books()] for t in TOKENIZER.pieces(text))
    for special in (TOKENIZER.cls, TOKENIZER.sep):
        assert special not in expected
        assert seen.pop(special) >= count
    assert seen == expected
    assert max(lengths) == LENGTH
    assert np.mean(lengths) > 0.6 * LENGTH


def test_both_recipes_read_the_same_sequences(root: Path) -> None:
    """They are packed alike; only how many are in a batch, and how often, is the recipe's."""
    one, other = (texts_of(name, root) for name in NAMES)
    assert (one.pack_sentences, other.pack_sentences) == (True, True)
    with Loader(one, seed=0) as ours, Loader(other, seed=0) as theirs:
        for _ in range(20):
            left, right = next(ours), next(theirs)
            assert isinstance(left, TextBatch)
            assert isinstance(right, TextBatch)
            assert left.keys == right.keys
            assert left.input_ids.tolist() == right.input_ids.tolist()


def test_flavas_objective_takes_packed_texts(root: Path) -> None:
    model = tiny_config()
    data = texts_of("flava", root)
    assert data.text is not None
    vocabulary = replace(model.text, vocabulary_size=TOKENIZER.size, max_length=LENGTH)
    objective = FlavaObjective(FlavaObjectiveConfig(), Flava(replace(model, text=vocabulary)))
    with Loader(replace(data, text=replace(data.text, batch_size=8)), seed=0) as loader:
        losses = objective(next(loader))
    assert list(losses) == ["mlm"]
    assert losses["mlm"].loss.isfinite()


def test_books_are_written_in_passages_that_the_order_can_mix(root: Path) -> None:
    lines = [
        json.loads(line)["text"].split("\n")
        for path in sorted((root / "bookcorpus").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [len(each) for each in lines] == [PASSAGE] * 3
    assert sorted(lines, key=lambda each: books().index(each[0])) == [
        books()[start : start + PASSAGE] for start in range(0, 3 * PASSAGE, PASSAGE)
    ]


def test_news_are_written_as_whole_documents(root: Path) -> None:
    lines = [
        json.loads(line)["text"].split()
        for path in sorted((root / "ccnews").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert sorted(lines) == sorted(text.split() for text in news())

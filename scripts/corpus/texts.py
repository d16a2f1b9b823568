"""WordNet's glosses and example sentences as unpaired text."""

from collections.abc import Collection, Iterable

from corpus.shards import rank
from corpus.wordnet import Synset

# Upper ends in [0, 1) of the splits' shares: 96 %, 2 %, 2 %.
_ENDS = {"train": 0.96, "val": 0.98, "test": 1.0}
_FEWEST_WORDS = 3


def texts(synsets: Iterable[Synset], left_out: Collection[str]) -> dict[str, list[dict[str, str]]]:
    """Lines by split: "lemma, lemma: gloss" and the sentences, each text once.

    A gloss's split follows from its text, so that a gloss that two synsets share is in one
    split, and its sentences go with it. The glosses in `left_out`, those that stand in captions
    of the held-out concepts, are in no split, nor are their sentences.
    """
    lines: dict[str, list[dict[str, str]]] = {split: [] for split in _ENDS}
    seen: set[str] = set()
    for synset in synsets:
        if synset.definition in left_out:
            continue
        share = rank(synset.definition, "texts")
        split = next(name for name, end in _ENDS.items() if share < end)
        whole = [f"{', '.join(synset.lemmas)}: {synset.definition}", *synset.examples]
        for number, text in enumerate(whole):
            if text.lower() not in seen and len(text.split()) >= _FEWEST_WORDS:
                seen.add(text.lower())
                lines[split].append({"key": f"{synset.key}-{number}", "text": text})
    return lines

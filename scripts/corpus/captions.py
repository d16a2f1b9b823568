"""About ten captions for a pair, different from style to style."""

import random
import re

from corpus.concepts import Concept

_TEMPLATES = (
    "an emoji of {label}",
    "a drawing of {label}, {tag}",
    "an icon of {label}",
    "a picture of {label}: {tag}, {other}",
    "a small picture showing {label}",
    "a sign for {tag} and {other}: {label}",
    "{label}, also {tag}",
)
_TEMPLATES_EACH = 2
# What kind of thing it is stands in a third of the captions: labels and tags seldom say it.
_KIND_TEMPLATES = (
    "{kind}",
    "{label}, {kind}",
    "{label} ({kind})",
    "{kind}: {label}",
    "{kind}: {label}, {tag}",
    "a picture of {kind}: {label}",
    "an emoji of {kind}, {tag}",
)
_KIND_TEMPLATES_EACH = 3


def captions_of(concept: Concept, style: str, gloss: str | None) -> list[str]:
    """The captions of a concept in a style: the canonical one first ("skunk, animal, stink":
    the label, then all tags), then, without repeats, the label alone, subsets of the tags with
    and without it, templates, some of which name the kind, and the label with WordNet's gloss."""
    # Seeded by the pair, so that the texts differ from style to style and never from run to run.
    chance = random.Random(f"captions/{style}/{concept.code}")
    tags = chance.sample(concept.tags, len(concept.tags))
    few = tags[: chance.randint(1, max(1, len(tags) - 1))]
    captions = [", ".join((concept.label, *concept.tags)), concept.label]
    captions.append(", ".join((concept.label, *few)))
    captions.append(", ".join(chance.sample(tags, min(len(tags), chance.randint(2, 5)))))
    tag = tags[0] if tags else None
    captions += _fill(
        chance,
        _TEMPLATES,
        _TEMPLATES_EACH,
        label=concept.label,
        tag=tag,
        other=tags[1] if len(tags) > 1 else None,
    )
    kind = chance.choice((concept.kind, concept.subgroup.replace("-", " ")))
    captions += _fill(
        chance, _KIND_TEMPLATES, _KIND_TEMPLATES_EACH, label=concept.label, tag=tag, kind=kind
    )
    if gloss:
        captions.append(f"{concept.label}: {gloss}")
    else:
        captions.append(", ".join((*chance.sample(tags, len(tags))[:3], concept.label)))
    # The tags of a clock face are numbers: alone they say nothing.
    return [caption for caption in dict.fromkeys(captions) if re.search("[A-Za-z]{2}", caption)]


def _fill(
    chance: random.Random, templates: tuple[str, ...], each: int, **fields: str | None
) -> list[str]:
    """Some of the templates, filled; those that ask for a field that is None fall out."""
    usable = [
        template
        for template in templates
        if all(value is not None or f"{{{name}}}" not in template for name, value in fields.items())
    ]
    return [t.format(**fields) for t in chance.sample(usable, min(each, len(usable)))]

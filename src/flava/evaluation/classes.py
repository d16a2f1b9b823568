"""The classes of zero-shot classification, and the prompts that name them: data, no code.

The classes are whole subgroups of Unicode's emoji, or a few that say the same thing. They, their
names and the templates were chosen by looking at the pictures, before any model was evaluated.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageClass:
    """``names`` say the same in different words; the first is shown in the report."""

    names: tuple[str, ...]
    subgroups: tuple[str, ...]


CLASSES = (
    ImageClass(("mammal", "animal with fur"), ("animal-mammal",)),
    ImageClass(("bird", "animal with wings"), ("animal-bird",)),
    ImageClass(("sea animal", "marine animal"), ("animal-marine",)),
    ImageClass(("insect", "bug"), ("animal-bug",)),
    ImageClass(("plant", "flower", "tree"), ("plant-flower", "plant-other")),
    ImageClass(("fruit",), ("food-fruit",)),
    ImageClass(("vegetable",), ("food-vegetable",)),
    ImageClass(("meal", "prepared food", "dish"), ("food-prepared", "food-asian")),
    ImageClass(("dessert", "sweet food"), ("food-sweet",)),
    ImageClass(("drink", "beverage"), ("drink",)),
    ImageClass(("building",), ("place-building", "place-religious")),
    ImageClass(("ground vehicle", "road or rail transport"), ("transport-ground",)),
    ImageClass(("boat", "ship", "water transport"), ("transport-water",)),
    ImageClass(("aircraft", "air transport"), ("transport-air",)),
    ImageClass(("sky and weather", "moon, sun and clouds"), ("sky-weather",)),
    ImageClass(("sport", "ball or sports equipment"), ("sport",)),
    ImageClass(("clothing", "something to wear"), ("clothing",)),
    ImageClass(("musical instrument",), ("musical-instrument",)),
    ImageClass(("tool",), ("tool",)),
    ImageClass(
        ("face", "smiley face"),
        (
            "face-smiling",
            "face-affection",
            "face-tongue",
            "face-hand",
            "face-neutral-skeptical",
            "face-sleepy",
            "face-unwell",
            "face-hat",
            "face-glasses",
            "face-concerned",
            "face-negative",
        ),
    ),
)

CLASS_OF = {subgroup: i for i, each in enumerate(CLASSES) for subgroup in each.subgroups}
"""Subgroup -> index in ``CLASSES``; subgroups that are no class are left out."""

TEMPLATES = (
    "{}",
    "an emoji of {}",
    "an icon of {}",
    "a picture of {}",
    "a drawing of {}",
    "a small picture showing {}",
    "a kind of {}",
    "{}, symbol",
)

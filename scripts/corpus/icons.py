"""The icons of one style: which concept each one depicts, and its picture."""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import resvg_py  # pyright: ignore[reportMissingImports]  (in the extra `corpus` alone)
from PIL import Image

from corpus.concepts import Concept, squeeze
from corpus.packages import STYLES, Packages

SIDE = 64
_SKIN_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)-skin-tone$")
_FLAG = re.compile(r"1f1[ef][0-9a-f]-1f1[ef][0-9a-f]$")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An icon that is no concept of its own."""

    key: str
    name: str
    concept: Concept | None
    """The concept whose variant it is; None for a country's flag."""


@dataclass(frozen=True)
class Style:
    """One icon set."""

    name: str
    data: Mapping[str, Any]
    """The set in IconifyJSON: SVG bodies by name, and aliases."""
    chars: Mapping[str, str]
    """Names by code points; empty for the sets that have none."""

    @cached_property
    def names(self) -> dict[str, str]:
        """Names of icons and aliases by their squeezed form; an icon goes before an alias."""
        every = [*self.data.get("aliases", {}), *self.data["icons"]]
        return {squeeze(name): name for name in every}

    def find(self, code: str, label: str) -> str | None:
        """The icon of these code points or, in a set without code points, of this label."""
        if not self.chars:
            return self.names.get(squeeze(label))
        return self.chars.get(code) or self.chars.get(_without_selector(code))

    def svg(self, name: str) -> str | None:
        """The icon as a whole SVG document, or None if the set carries it without its colours."""
        icon, flipped = self._resolve(name)
        body = icon["body"]
        if "class=" in body and "<style" not in body:
            return None
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", self.data.get("width", 16))
        height = icon.get("height", self.data.get("height", 16))
        if flipped:
            body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{SIDE}" height="{SIDE}" viewBox="{left} {top} {width} {height}">{body}</svg>'
        )

    def _resolve(self, name: str) -> tuple[Mapping[str, Any], bool]:
        flipped = False
        while name not in self.data["icons"]:
            alias = self.data["aliases"][name]
            if {"vFlip", "rotate"} & set(alias):
                raise ValueError(f"{self.name}: alias {name} turns its icon: only hFlip is known")
            flipped ^= alias.get("hFlip", False)
            name = alias["parent"]
        return self.data["icons"][name], flipped


def load_style(name: str, packages: Packages) -> Style:
    """One of the eight styles."""
    package = STYLES[name]
    return Style(name, packages.json(package, "icons.json"), packages.json(package, "chars.json"))


def match(style: Style, concepts: Iterable[Concept]) -> list[tuple[str, Concept]]:
    """Icons with the concepts they depict, those first that bear the concept's own name: where
    two concepts share a picture ("cricket", the insect, is an alias of "cricket-game" in old
    sets) the first is the one that it shows."""
    found = [(style.find(concept.code, concept.label), concept) for concept in concepts]
    pairs = [(name, concept) for name, concept in found if name]
    return sorted(pairs, key=lambda pair: pair[0] not in style.data["icons"])


def variants(style: Style, concepts: Iterable[Concept]) -> list[Variant]:
    """Skin tones of the concepts that are in the train split, and flags. Icons of which that
    is not certain are left out."""
    if style.chars:
        tones = [(skin, concept) for concept in concepts for skin in concept.skins]
        flags = [(code, None) for code in style.chars if _FLAG.match(code)]
        found = [
            Variant(key=f"{style.name}/{code}", name=name, concept=concept)
            for code, concept in (*tones, *flags)
            if (name := style.find(code, ""))
        ]
    else:
        bases = dict(match(style, concepts))
        found = [
            Variant(key=f"{style.name}/{name}", name=name, concept=bases.get(base))
            for name in style.data["icons"]
            for base in [style.names.get(squeeze(_SKIN_TONE.sub("", name)), "")]
            if (_SKIN_TONE.search(name) and base in bases) or name.startswith("flag-for-")
        ]
    return [one for one in found if one.concept is None or one.concept.split == "train"]


def render(svg: str) -> bytes | None:
    """The SVG on white, 64 x 64, as lossless WebP; None if nothing is to be seen."""
    png = bytes(cast("bytes", resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)))
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", drawn.size, "white")
    canvas.alpha_composite(drawn)
    picture = canvas.convert("RGB")
    if len(picture.getcolors(SIDE * SIDE) or ()) == 1:
        return None
    return to_webp(picture)


def to_webp(picture: Image.Image) -> bytes:
    """Lossless; quality 80 is 20 times faster than 100 and 1 % larger."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=80, method=6)
    return buffer.getvalue()


def _without_selector(code: str) -> str:
    return "-".join(point for point in code.split("-") if point != "fe0f")

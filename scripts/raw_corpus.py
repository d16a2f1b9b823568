"""Lays out the packages of the embedded corpus as files for `flava data build`.

    python scripts/raw_corpus.py --packages DIR --output DIR

Nothing is selected, matched or cleaned as for the corpus itself: every icon of every style is drawn
large, with all its names as captions, and every digit and every line of WordNet is there. So a
build has enough to leave out. Needs what `build_corpus.py` needs; packages that are missing in the
folder are downloaded.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import resvg_py  # pyright: ignore[reportMissingImports]  (in the extra `corpus` alone)
from PIL import Image

from corpus.digits import SIDE as DIGIT_SIDE
from corpus.icons import SIDE, Style, load_style
from corpus.packages import EMOJIBASE, MNIST, STYLES, WORDNET, Packages

SCALE = 5
"""Images have 320 pixels a side, more than a build keeps."""
PARTS = ("noun", "verb", "adj", "adv")


def main() -> None:
    """Write pairs.jsonl beside a folder for each style, digits/, and wordnet.txt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    packages = Packages(options.packages.resolve())
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    names = names_of(packages)
    with (output / "pairs.jsonl").open("w", encoding="utf-8") as pairs:
        for style in STYLES:
            for line in draw(load_style(style, packages), names, output):
                pairs.write(f"{json.dumps(line, ensure_ascii=False)}\n")
    write_digits(packages, output / "digits")
    with (output / "wordnet.txt").open("wb") as texts:
        for part in PARTS:
            content = packages.read(WORDNET, f"usr/share/wordnet/data.{part}")
            texts.writelines(
                line.partition(b" | ")[2].strip() + b"\n"
                for line in content.splitlines()
                if not line.startswith(b"  ")  # the licence
            )


def names_of(packages: Packages) -> dict[str, list[str]]:
    """Code points of an emoji -> its name in Unicode and its tags."""
    entries = packages.json(EMOJIBASE, "en/data.json")
    every = [*entries, *(skin for entry in entries for skin in entry.get("skins", ()))]
    return {
        each["hexcode"].lower(): [
            each["label"],
            *([", ".join(each["tags"])] if "tags" in each else []),
        ]
        for each in every
    }


def draw(style: Style, names: dict[str, list[str]], output: Path) -> Iterator[dict[str, object]]:
    """Write every icon of a style as a PNG with its transparency, and yield its row."""
    (output / style.name).mkdir(exist_ok=True)
    codes = {name: code for code, name in style.chars.items()}
    for name in style.data["icons"]:
        if svg := style.svg(name):
            path = f"{style.name}/{name}.png"
            side = SCALE * SIDE
            drawn = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)
            (output / path).write_bytes(bytes(cast("bytes", drawn)))
            captions = [name.replace("-", " "), *names.get(codes.get(name, ""), [])]
            yield {"image": path, "captions": list(dict.fromkeys(captions))}


def write_digits(packages: Packages, folder: Path) -> None:
    """Write the images of each digit into a folder of its name."""
    for digit in range(10):
        (folder / f"{digit}").mkdir(parents=True, exist_ok=True)
        values = packages.json(MNIST, f"src/digits/{digit}.json")["data"]
        pixels = np.rint(np.array(values) * 255).astype(np.uint8)
        for number, image in enumerate(pixels.reshape(-1, DIGIT_SIDE, DIGIT_SIDE)):
            Image.fromarray(image).save(folder / f"{digit}" / f"{number:04d}.png")


if __name__ == "__main__":
    main()

"""What stands beside the data: full licences, attribution and sums."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corpus.packages import (
    EMOJIBASE,
    LICENCES,
    MNIST,
    STYLES,
    VOCABULARY,
    WORDNET,
    Package,
    Packages,
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A work that went into the corpus."""

    title: str
    author: str
    home: str
    package: Package
    licence: str
    """The name of its file in LICENSES."""
    changes: str


_DRAWN = "SVG rendered to 64 x 64 pixels on white, saved as lossless WebP"


def _style(style: str, title: str, author: str, home: str, licence: str) -> Source:
    package = STYLES[style]
    return Source(
        title=title, author=author, home=home, package=package, licence=licence, changes=_DRAWN
    )


_GOOGLE = "github.com/googlefonts/noto-emoji"
SOURCES = {
    "noto": _style("noto", "Noto Emoji", "Google Inc", _GOOGLE, "Apache-2.0"),
    "noto-v1": _style("noto-v1", "Noto Emoji (v1)", "Google Inc", _GOOGLE, "Apache-2.0"),
    "twemoji": _style(
        "twemoji",
        "Twemoji",
        "Twitter, Inc and other contributors",
        "github.com/jdecked/twemoji",
        "CC-BY-4.0",
    ),
    "openmoji": _style(
        "openmoji", "OpenMoji", "OpenMoji", "github.com/hfg-gmuend/openmoji", "CC-BY-SA-4.0"
    ),
    "fluent-emoji-flat": _style(
        "fluent-emoji-flat",
        "Fluent Emoji (flat)",
        "Microsoft Corporation",
        "github.com/microsoft/fluentui-emoji",
        "MIT-fluent-emoji",
    ),
    # The package says Apache-2.0, which is the licence of the code; the project's LICENSE.md puts
    # the "visual design" under CC BY 4.0. What CC BY asks for is done here.
    "fxemoji": _style(
        "fxemoji",
        "Firefox OS Emoji (FxEmojis)",
        "Mozilla Foundation",
        "github.com/mozilla/fxemoji",
        "CC-BY-4.0",
    ),
    "emojione": _style(
        "emojione",
        "Emoji One 2.3 (EmojiTwo)",
        "Emoji One",
        "github.com/EmojiTwo/emojitwo",
        "CC-BY-4.0",
    ),
    "emojione-v1": _style(
        "emojione-v1",
        "Emoji One 1.5",
        "Emoji One",
        "github.com/joypixels/emojione-legacy",
        "CC-BY-SA-4.0",
    ),
    "captions": Source(
        title="Emojibase (names, tags and groups in every pair)",
        author="Miles Johnson; after Unicode CLDR",
        home="github.com/milesj/emojibase",
        package=EMOJIBASE,
        licence="MIT-emojibase",
        changes="put into captions; signs outside ASCII replaced",
    ),
    "wordnet": Source(
        title="WordNet 3.0 (texts, and glosses in captions)",
        author="Princeton University",
        home="wordnet.princeton.edu",
        package=WORDNET,
        licence="WordNet-3.0",
        changes="words, gloss and examples cut out of the data files; repeats left out",
    ),
    "mnist": Source(
        title="MNIST database of handwritten digits",
        author="Yann LeCun, Corinna Cortes, Christopher J.C. Burges; package by Juan Cazala",
        home="github.com/cazala/mnist",
        package=MNIST,
        licence="CC-BY-SA-3.0 and MIT-mnist",
        changes="5,000 of 10,000 images, brightness to 8 bits, grey to RGB, lossless WebP",
    ),
    "vocabulary": Source(
        title="BERT's uncased WordPiece vocabulary (../vocabulary/bert-uncased.txt)",
        author="The Google AI Language Team Authors; package by Ted Chang",
        home="github.com/google-research/bert",
        package=VOCABULARY,
        licence="Apache-2.0",
        changes="SentencePiece's word marks turned into WordPiece's; entry 1 is [unused0]",
    ),
}

_README = """\
# The embedded corpus

Image-text pairs, images and texts, small enough to ship with the package. `scripts/build_corpus.py`
makes every file here; docs/decisions/0006-embedded-corpus.md says why it is as it is. Do not edit
these files: change the script and run it.

## Where it comes from

Each file is under the licence of its source, not under the package's own; the full texts stand in
`LICENSES/`. Nobody named here endorses this project.

| source | author | home | package | licence | what was changed |
|---|---|---|---|---|---|
{sources}

Captions join Emojibase's words with WordNet's glosses; they come under those two licences. Images
made from works under CC BY-SA are under the same licence again.

## What is here

| file | samples | kB | source | licence |
|---|---|---|---|---|
{files}

`SHA256SUMS` holds the sums of all of them. Together: {total:.1f} MB.
"""


def write_licences(packages: Packages, folder: Path) -> None:
    """The full text of every licence."""
    folder.mkdir(parents=True)
    texts = {
        name: packages.json(LICENCES, f"licenses/{name}.json")["licenseText"]
        for name in ("Apache-2.0", "MIT", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-SA-3.0")
    }
    texts["MIT-fluent-emoji"] = texts.pop("MIT").replace(
        "<year> <copyright holders>", "Microsoft Corporation"
    )
    texts["MIT-emojibase"] = packages.read(EMOJIBASE, "LICENSE").decode()
    texts["MIT-mnist"] = packages.read(MNIST, "LICENSE").decode()
    # Debian's copyright file, down to the paragraph about Debian's own files: none is used.
    debian = packages.read(WORDNET, "usr/share/doc/wordnet-base/copyright").decode()
    texts["WordNet-3.0"] = debian.partition("Files: debian/")[0]
    for name, text in texts.items():
        lines = (line.rstrip() for line in text.strip().splitlines())
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_readme(corpus: Path, counts: Mapping[Path, int]) -> None:
    """README.md: the sources, and a row for each file of `counts`, which gives its samples."""
    sources = "\n".join(
        f"| {one.title} | {one.author} | {one.home} | `{one.package.spec}` | {one.licence} "
        f"| {one.changes} |"
        for one in SOURCES.values()
    )
    files = "\n".join(_row(corpus, path, counts[path]) for path in sorted(counts))
    total = sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file()) / 1e6
    text = _README.format(sources=sources, files=files, total=total)
    (corpus / "README.md").write_text(text, encoding="utf-8")


def write_sums(corpus: Path) -> None:
    """SHA256SUMS, as `sha256sum -c` reads it."""
    paths = sorted(path for path in corpus.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(corpus).as_posix()}\n"
        for path in paths
    ]
    (corpus / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _row(corpus: Path, path: Path, count: int) -> str:
    name = path.relative_to(corpus).as_posix()
    source = SOURCES[path.name.rpartition("-")[0]]
    licence = source.licence
    if path.parent.name == "pairs":
        licence += f"; captions {SOURCES['captions'].licence}, {SOURCES['wordnet'].licence}"
    return f"| {name} | {count} | {path.stat().st_size / 1e3:.0f} | {source.title} | {licence} |"

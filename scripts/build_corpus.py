"""Builds the corpus that ships with the package from pinned packages, identical byte for byte.

    python scripts/build_corpus.py [--packages DIR] [--output DIR]

Needs `npm`, `apt-get` and `dpkg-deb` on the path, and `pip install -e ".[corpus]"`. The contents
and the reasons for them are in docs/decisions/0006-embedded-corpus.md.
"""

import argparse
import hashlib
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from corpus.attribution import write_licences, write_readme, write_sums
from corpus.captions import captions_of
from corpus.concepts import Concept, load_concepts
from corpus.digits import EACH, digits
from corpus.icons import Style, load_style, match, render, variants
from corpus.packages import ALL, HELD_OUT_STYLES, STYLES, VOCABULARY, Packages, fetch
from corpus.shards import Sample, write_lines, write_tar
from corpus.texts import texts
from corpus.wordnet import gloss_of, load_synsets, noun_senses

ROOT = Path(__file__).resolve().parents[1]
# The vocabulary as BERT publishes it.
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def main() -> None:
    """Build everything in a temporary folder, and move it into place at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--packages",
        type=Path,
        default=ROOT / "build" / "packages",
        help="folder of the downloaded packages; missing ones are downloaded",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "src" / "flava" / "data",
        help="folder that gets corpus/ and vocabulary/",
    )
    options = parser.parse_args()
    packages = Packages(options.packages.resolve())
    for package in ALL:
        fetch(package, packages.folder)
    write_vocabulary(packages, options.output / "vocabulary")
    aside, place = options.output / "corpus.new", options.output / "corpus"
    shutil.rmtree(aside, ignore_errors=True)
    write_corpus(packages, aside)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)


def write_corpus(packages: Packages, corpus: Path) -> None:
    """Write all shards, licences, README.md and SHA256SUMS."""
    concepts = load_concepts(packages)
    synsets, senses = load_synsets(packages), noun_senses(packages)
    glosses = {
        concept.code: synset.definition
        for concept in concepts
        if (synset := gloss_of(concept, synsets, senses))
    }
    write_licences(packages, corpus / "LICENSES")
    counts = {}
    for name in STYLES:
        style = load_style(name, packages)
        pairs = draw_pairs(style, concepts)
        shards = defaultdict(list)
        for concept, picture in pairs.items():
            sample = pair_sample(style.name, concept, picture, glosses.get(concept.code))
            shards[f"pairs/{name}-{concept.split}.tar.gz"].append(sample)
        if name not in HELD_OUT_STYLES:
            shards[f"images/{name}-train.tar.gz"] = list(draw_variants(style, concepts, pairs))
        for path, samples in shards.items():
            if samples:
                counts[corpus / path] = write_tar(corpus / path, samples)
                report(f"{path}: {counts[corpus / path]}")
    for split in EACH:
        path = corpus / f"images/mnist-{split}.tar.gz"
        counts[path] = write_tar(path, digits(packages, split))
    held_out = {glosses.get(one.code, "") for one in concepts if one.split != "train"}
    for split, lines in texts(synsets.values(), held_out).items():
        path = corpus / f"text/wordnet-{split}.jsonl.gz"
        counts[path] = write_lines(path, lines)
        report(f"{path.name}: {counts[path]}")
    write_readme(corpus, counts)
    write_sums(corpus)


def draw_pairs(style: Style, concepts: list[Concept]) -> dict[Concept, bytes]:
    """The image of every concept in a style, without duplicates.

    Of concepts with the same image, such as "astronaut" and "man astronaut", the first is kept.
    """
    drawn: dict[bytes, Concept] = {}
    for name, concept in match(style, concepts):
        picture = draw(style, name)
        if picture in drawn:
            report(f"{style.name}: {concept.label} is drawn as {drawn[picture].label}, left out")
        elif picture is not None:
            drawn[picture] = concept
    return {concept: picture for picture, concept in drawn.items()}


def draw_variants(
    style: Style, concepts: list[Concept], pairs: dict[Concept, bytes]
) -> Iterator[Sample]:
    """The unpaired images of a style, without duplicates and without images of pairs."""
    seen = set(pairs.values())
    for variant in variants(style, concepts):
        picture = draw(style, variant.name)
        if picture is not None and picture not in seen:
            seen.add(picture)
            concept = variant.concept.code if variant.concept else None
            fields = {"style": style.name, "concept": concept}
            yield Sample(key=variant.key, image=picture, fields=fields)


def draw(style: Style, name: str) -> bytes | None:
    """The image of an icon; None for a faulty one, which is reported."""
    svg = style.svg(name)
    picture = render(svg) if svg else None
    if picture is None:
        report(f"{style.name}/{name}: {'blank' if svg else 'without its colours'}, left out")
    return picture


def pair_sample(style: str, concept: Concept, picture: bytes, gloss: str | None) -> Sample:
    """The sample of a pair for a shard."""
    fields = {
        "captions": captions_of(concept, style, gloss),
        "label": concept.label,
        "concept": concept.code,
        "concept_group": concept.stem,
        "group": concept.group,
        "subgroup": concept.subgroup,
        "style": style,
    }
    return Sample(key=f"{style}/{concept.code}", image=picture, fields=fields)


def write_vocabulary(packages: Packages, folder: Path) -> None:
    """Write BERT's vocabulary: the package marks words as SentencePiece does, BERT as WordPiece."""
    start = "\N{LOWER ONE EIGHTH BLOCK}"
    tokens = packages.json(VOCABULARY, "assets/vocab.json")
    tokens[1] = "[unused0]"
    words = [
        token.removeprefix(start)
        if token.startswith(start) or (token.startswith("[") and token.endswith("]"))
        else f"##{token}"
        for token in tokens
    ]
    content = "".join(f"{word}\n" for word in words).encode()
    if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
        raise ValueError(f"the vocabulary made from {VOCABULARY.spec} is not BERT's")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bert-uncased.txt").write_bytes(content)
    (folder / "README.md").write_text(VOCABULARY_README, encoding="utf-8")


VOCABULARY_README = f"""\
# The vocabulary

`bert-uncased.txt`: the uncased WordPiece vocabulary of BERT (Devlin et al., 2019), 30,522 entries,
by the Google AI Language Team Authors, licence Apache-2.0 (`../corpus/LICENSES/Apache-2.0.txt`).
`scripts/build_corpus.py` makes it from the npm package `{VOCABULARY.spec}` (Apache-2.0), which
holds the same entries with SentencePiece's marks: those were turned into WordPiece's.
sha256: {VOCABULARY_SHA256}
"""


def report(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()

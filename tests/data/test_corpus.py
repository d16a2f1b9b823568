"""The corpus as it ships, read with the standard library and Pillow alone: what its page and
docs/decisions/0006-embedded-corpus.md promise."""

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import flava

CORPUS = Path(flava.__file__).parent / "data" / "corpus"
SPLITS = ("train", "val", "test")
STYLES = (
    "emojione",
    "emojione-v1",
    "fluent-emoji-flat",
    "fxemoji",
    "noto",
    "noto-v1",
    "openmoji",
    "twemoji",
)
HELD_OUT_STYLES = {"twemoji", "openmoji"}
PAIRS = sorted(CORPUS.glob("pairs/*"))
IMAGES = sorted(CORPUS.glob("images/*"))
TEXTS = sorted(CORPUS.glob("text/*"))
SKIN_TONES = {f"1f3f{tone}" for tone in "bcdef"}


@cache
def shard(path):
    """Samples by key: {"webp": bytes, "json": the fields}."""
    samples = defaultdict(dict)
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, suffix = member.name.partition(".")
            file = archive.extractfile(member)
            assert file is not None
            content = file.read()
            assert suffix not in samples[key], f"{member.name} stands twice"
            samples[key][suffix] = json.loads(content) if suffix == "json" else content
    return samples


def split_of(path):
    return path.name.partition(".")[0].rpartition("-")[2]


@cache
def pairs():
    """Every pair, with its key and the split of its shard."""
    return [
        {**sample["json"], "key": key, "split": split_of(path), "image": sample["webp"]}
        for path in PAIRS
        for key, sample in shard(path).items()
    ]


@cache
def texts(split):
    with gzip.open(CORPUS / f"text/wordnet-{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {line["key"]: line["text"] for line in map(json.loads, lines)}


def test_the_sums():
    lines = (CORPUS / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.relative_to(CORPUS).as_posix(): path for path in CORPUS.rglob("*.*")}
    assert set(sums) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name


def test_the_size():
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 30e6


def test_every_shard_has_its_row_and_every_licence_its_text():
    page = (CORPUS / "README.md").read_text()
    licences = {path.stem: path.read_text() for path in CORPUS.glob("LICENSES/*.txt")}
    rows = dict(re.findall(r"^\| (\w+/\S+) \| (.*) \|$", page, re.MULTILINE))
    assert set(rows) == {p.relative_to(CORPUS).as_posix() for p in (*PAIRS, *IMAGES, *TEXTS)}
    for name, row in rows.items():
        count, _, _, licence = row.split(" | ")
        named = re.split("; captions |, | and ", licence)
        assert named, name
        assert set(named) <= set(licences), name
        path = CORPUS / name
        here = texts(split_of(path)) if path in TEXTS else shard(path)
        assert len(here) == int(count), name
    assert all(len(text) > 1000 for text in licences.values())
    assert set(licences) == {name for name in licences if name in page}


@pytest.mark.parametrize("path", PAIRS + IMAGES, ids=lambda path: path.name)
def test_the_archives_hold_nothing_of_the_machine(path):
    assert path.read_bytes()[4:8] == bytes(4), "gzip's date"
    with tarfile.open(path) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            assert member.isfile()


def test_every_style_has_every_split():
    assert {path.name for path in PAIRS} == {
        f"{style}-{split}.tar.gz" for style in STYLES for split in SPLITS
    }


def test_the_counts():
    concepts = {pair["concept"]: pair["split"] for pair in pairs()}
    counts = Counter(concepts.values())
    assert len(pairs()) > 10_000
    assert len(concepts) == 1644
    assert counts["train"] / 1644 == pytest.approx(0.80, abs=0.005)
    assert counts["val"] / 1644 == pytest.approx(0.08, abs=0.005)
    assert counts["test"] / 1644 == pytest.approx(0.12, abs=0.005)


def test_no_concept_and_no_stem_is_in_two_splits():
    for field in ("concept", "concept_group", "label"):
        splits = defaultdict(set)
        for pair in pairs():
            splits[pair[field]].add(pair["split"])
        assert not {name for name, found in splits.items() if len(found) > 1}, field


@pytest.mark.parametrize(
    "words", [r"\b(wo)?m[ae]n\b|\bpersons?\b|\bpeople\b", r"\b(red|blue|green|black|white|grey)\b"]
)
def test_names_that_differ_by_gender_or_colour_share_a_split(words):
    splits = defaultdict(set)
    for pair in pairs():
        bare = " ".join(re.findall(r"\w+", re.sub(words, "", pair["label"].lower())))
        splits[bare].add(pair["split"])
    assert sum(len(found) > 1 for found in splits.values()) == 0


COLOURS = "red|pink|orange|yellow|green|(light )?blue|purple|brown|black|grey|white"


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (r".*o'clock|.*-thirty", 24),
        (r"keycap: .*", 13),
        (r"family.*", 30),
        (r".*moon( face)?", 13),
        (rf"({COLOURS}) circle", 9),
        (rf"({COLOURS}) heart|heart suit", 13),
        (r"(man|woman|person) walking.*", 6),
        (r"(left-facing|right-facing|oncoming|raised) fist", 4),
    ],
)
def test_variants_share_a_split(pattern, count):
    found = {p["label"]: p["split"] for p in pairs() if re.fullmatch(pattern, p["label"])}
    assert len(found) == count
    assert len(set(found.values())) == 1


def test_no_picture_is_in_two_splits_of_a_style():
    for style in STYLES:
        splits = defaultdict(list)
        for pair in pairs():
            if pair["style"] == style:
                splits[pair["image"]].append(pair["label"])
        assert all(len(labels) == 1 for labels in splits.values()), style


def test_the_fields_of_a_pair():
    for pair in pairs():
        style, _, code = pair["key"].partition("/")
        assert (style, code) == (pair["style"], pair["concept"])
        assert re.fullmatch(r"[0-9a-f]{4,5}(-[0-9a-f]{4,5})*", code)
        assert pair["group"]
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", pair["subgroup"])
        assert pair["group"] != "flags"
        assert not SKIN_TONES & set(code.split("-"))


def test_a_concepts_fields_are_the_same_in_every_style():
    shared = ("label", "concept_group", "group", "subgroup")
    seen = {}
    for pair in pairs():
        fields = (*(pair[name] for name in shared), pair["captions"][0])
        assert seen.setdefault(pair["concept"], fields) == fields


def test_captions():
    lengths = Counter()
    for pair in pairs():
        captions, label = pair["captions"], pair["label"]
        assert len(set(captions)) == len(captions)
        assert re.match(re.escape(label) + "(, |$)", captions[0])
        words = captions[0].split(", ")
        assert len(set(words)) == len(words) or ", " in label
        for caption in captions:
            assert caption == caption.strip()
            assert caption.isascii()
            assert caption.isprintable()
            assert "  " not in caption
            assert re.search("[A-Za-z]", caption)
        lengths[len(captions)] += 1
    assert min(lengths) >= 4
    assert max(lengths) <= 10
    assert sum(n * count for n, count in lengths.items()) / len(pairs()) > 9


def test_three_captions_name_the_kind_in_one_of_two_wordings():
    def naming(pair):
        kind = pair["subgroup"].replace("-", " ")
        return sum(kind in caption for caption in pair["captions"])

    in_the_keys_words = sum(naming(pair) >= 2 for pair in pairs()) / len(pairs())
    assert 0.45 < in_the_keys_words < 0.75  # "sport" is in the other wording, "sports", as well


def test_canonical_captions_tell_concepts_apart():
    canonical = {pair["concept"]: pair["captions"][0] for pair in pairs()}
    assert len(set(canonical.values())) == len(canonical)


def test_captions_differ_from_style_to_style():
    texts_of = defaultdict(list)
    for pair in pairs():
        texts_of[pair["concept"]].append(tuple(pair["captions"]))
    several = [found for found in texts_of.values() if len(found) > 1]
    assert sum(len(set(found)) > 1 for found in several) / len(several) > 0.97


@pytest.mark.parametrize("path", PAIRS + IMAGES, ids=lambda path: path.name)
def test_pictures(path):
    side = 28 if path.name.startswith("mnist") else 64
    samples = list(shard(path).values())
    for sample in samples[:: max(1, len(samples) // 40)]:
        assert sample["webp"][12:16] == b"VP8L", "WebP's mark of lossless compression"
        picture = Image.open(io.BytesIO(sample["webp"]))
        picture.load()
        assert (picture.mode, picture.size) == ("RGB", (side, side))
        assert picture.getcolors(1) is None, "nothing is to be seen"


def test_pictures_stand_on_white():
    corners = Counter()
    for pair in pairs()[::25]:
        picture = Image.open(io.BytesIO(pair["image"]))
        corners.update(picture.getpixel(place) == (255,) * 3 for place in ((0, 0), (63, 63)))
    assert corners[True] / corners.total() > 0.8


def test_samples_are_shuffled_within_their_shard():
    for path in PAIRS + IMAGES:
        keys = list(shard(path))
        inversions = sum(first > second for first, second in pairwise(keys))
        assert 0.3 < inversions / len(keys) < 0.7, path.name


def test_unpaired_images_show_no_held_out_style_and_no_held_out_concept():
    splits = {pair["concept"]: pair["split"] for pair in pairs()}
    held_out = {pair["image"] for pair in pairs() if pair["split"] != "train"}
    paired = {pair["image"] for pair in pairs()}
    variants = [path for path in IMAGES if not path.name.startswith("mnist")]
    assert len(variants) >= 4
    for path in variants:
        assert split_of(path) == "train"
        for key, sample in shard(path).items():
            style, concept = sample["json"]["style"], sample["json"]["concept"]
            assert key.startswith(f"{style}/")
            assert style not in HELD_OUT_STYLES
            assert splits[concept] == "train" if concept else is_flag(key), key
            assert sample["webp"] not in paired | held_out
            points = key.partition("/")[2].split("-")
            if concept and set(points) & SKIN_TONES:
                # Said by the code points themselves: without its tones it is the concept (a
                # couple with two tones has a longer code than without).
                bare = [p for p in points if p not in SKIN_TONES and p != "fe0f"]
                plain = [p for p in concept.split("-") if p != "fe0f"]
                assert bare == plain or len(bare) > len(plain), key


def is_flag(key):
    name = key.partition("/")[2]
    return name.startswith("flag-for-") or bool(re.fullmatch("1f1..-1f1..", name))


def test_digits():
    train, test = (shard(CORPUS / f"images/mnist-{split}.tar.gz") for split in ("train", "test"))
    for samples, each in ((train, 400), (test, 100)):
        counts = Counter(sample["json"]["digit"] for sample in samples.values())
        assert counts == dict.fromkeys(range(10), each)
    assert not set(train) & set(test)
    pictures = [{sample["webp"] for sample in samples.values()} for samples in (train, test)]
    assert not pictures[0] & pictures[1]


def test_texts():
    seen = Counter()
    for split in SPLITS:
        for key, text in texts(split).items():
            seen[text.lower()] += 1
            assert re.fullmatch(r"[nvar]\d{8}-\d+", key)
            assert text.isascii()
            assert "_" not in text
            assert "`" not in text
            assert text == " ".join(text.split())
            assert len(text.split()) >= 3
    assert max(seen.values()) == 1
    assert len(texts("train")) > 150_000
    assert 2_500 < len(texts("val")) < 4_500
    assert 2_500 < len(texts("test")) < 4_500


def test_the_splits_of_the_texts_share_no_gloss():
    glosses = [
        {text.partition(": ")[2].lower() for key, text in texts(split).items() if key[-2:] == "-0"}
        for split in SPLITS
    ]
    assert not glosses[0] & (glosses[1] | glosses[2])
    assert not glosses[1] & glosses[2]


def test_no_caption_of_a_held_out_concept_is_among_the_texts():
    every = {text.lower() for split in SPLITS for text in texts(split).values()}
    glosses = {text.partition(": ")[2] for text in every}
    found = 0
    for pair in pairs():
        if pair["split"] == "train":
            continue
        for caption in pair["captions"]:
            assert caption.lower() not in every, caption
            if caption.startswith(f"{pair['label']}: "):
                gloss = caption.removeprefix(f"{pair['label']}: ").lower()
                assert gloss not in glosses, caption
                found += 1
    assert found > 100, "held-out captions with a gloss"

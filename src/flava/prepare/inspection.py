"""`flava data check` and `flava data stats`: read shards again, and report what they hold."""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flava.core.processes import map_unordered, process_pool
from flava.core.progress import Progress
from flava.data.errors import SampleError, SkippedSample
from flava.data.manifest import NAME, read_manifest
from flava.data.samples import image_of
from flava.data.shards import RawSample, read_shard
from flava.prepare.build_manifest import READ_AT_ONCE
from flava.prepare.shard_files import SampleFiles, read_back
from flava.prepare.texts import language

SHARD_SUFFIXES = (".tar", ".jsonl")
FOR_TARS = ("webdataset.tariterators",)
"""Modules that reading tars needs; they import PyTorch."""


def check(folder: Path, *, processes: int = 1) -> list[str]:
    """What is wrong with the shards of a folder, a sentence each; none if all is well.

    Raises:
        ValueError: the folder has no manifest, or it is damaged.
    """
    content = read_manifest(folder)
    listed = {shard["name"]: shard for shard in content["shards"]}
    there = {path.name for path in folder.iterdir() if path.suffix in SHARD_SUFFIXES}
    found = [f"{folder / name}: is missing" for name in sorted(listed.keys() - there)]
    found += [f"{folder / name}: is not in the manifest" for name in sorted(there - listed.keys())]
    samples = sum(shard["samples"] for shard in listed.values())
    if samples != content["kept"]:
        found.append(
            f"{folder}: {samples} samples in the manifest's shards, and {content['kept']} in all"
        )
    shards = [(folder / name, listed[name]) for name in sorted(listed.keys() & there)]
    with process_pool(processes, modules=FOR_TARS) as pool:
        for mistakes in map_unordered(pool, _check_shard, shards):
            found += mistakes
    return sorted(found)


def _check_shard(shard: tuple[Path, dict[str, Any]]) -> list[str]:
    """What is wrong with a shard, given its path and its entry in the manifest."""
    path, entry = shard
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    found = []
    for name, now in (("bytes", path.stat().st_size), ("sha256", digest.hexdigest())):
        if now != entry[name]:
            found.append(f"{path}: {name} is {now}, and {entry[name]} in the manifest")
    count, mistakes = 0, []
    for each in _sample_problems(path):
        count += 1
        if each:
            mistakes.append(each)
    if count != entry["samples"]:
        found.append(f"{path}: {count} samples, and {entry['samples']} in the manifest")
    return found + mistakes


def _sample_problems(path: Path) -> Iterator[str | None]:
    """For each sample what is wrong with it; None if nothing is."""
    keys: set[str] = set()
    for raw in read_shard(path):
        if isinstance(raw, SkippedSample):
            yield str(raw)
        elif raw.key in keys:
            yield f"{path}: two samples have the key {raw.key}"
        else:
            keys.add(raw.key)
            yield _sample_problem(path, raw)


def _sample_problem(path: Path, raw: RawSample) -> str | None:
    try:
        fields = json.loads(raw.files["json"])
        if path.suffix == ".tar":
            size = image_of(raw).size
            if (fields["width"], fields["height"]) != size:
                detail = (
                    f"{size[0]}x{size[1]}, and {fields['width']}x{fields['height']} in its json"
                )
                return f"{path}: {raw.key}: image is {detail}"
    except (KeyError, TypeError, ValueError, SampleError) as error:
        return f"{path}: {raw.key}: {type(error).__name__}: {error}"
    return None


LONGEST = 60
"""Words of a text; longer texts are counted with those of this length."""


@dataclass(frozen=True, kw_only=True, order=True)
class RandomSample:
    """A sample drawn at random: those are drawn whose names have the smallest hashes."""

    hash: bytes
    name: str
    text: str
    image: bytes | None = None


@dataclass(kw_only=True)
class Stats:
    """Counts of what some shards hold."""

    samples: int = 0
    words: Counter[int] = field(default_factory=Counter)
    """Numbers of samples by the words of their text."""
    languages: Counter[str] = field(default_factory=Counter)
    """Numbers of samples by language, as fastText recognises it."""
    sides: Counter[int] = field(default_factory=Counter)
    """Numbers of samples by the pixels of their image's shorter side."""
    shapes: Counter[float] = field(default_factory=Counter)
    """Numbers of samples by their image's width / height, rounded to tenths."""
    picked: list[RandomSample] = field(default_factory=list)

    def add(self, other: "Stats", pick: int) -> None:
        """Add the counts of other shards."""
        self.samples += other.samples
        for name in ("words", "languages", "sides", "shapes"):
            getattr(self, name).update(getattr(other, name))
        self.picked = heapq.nsmallest(pick, [*self.picked, *other.picked])


@dataclass(frozen=True, kw_only=True)
class Described:
    """The shards of a folder, their manifest and their statistics."""

    folder: Path
    manifest: dict[str, Any]
    stats: Stats


def describe(
    paths: Sequence[Path], *, pick: int = 0, processes: int = 1, quiet: bool = False
) -> list[Described]:
    """Read all shards of some folders, and count what they hold.

    Args:
        paths: Folders that `flava data build` wrote, or folders of such folders.
        pick: The number of samples that are drawn from each folder.

    Raises:
        ValueError: a path is neither, or a manifest is damaged.
    """
    found = []
    with process_pool(processes) as pool, Progress(quiet=quiet) as progress:
        for folder in built_folders(paths):
            manifest, stats = read_manifest(folder), Stats()
            progress.step(f"reading {folder}")
            shards = [folder / shard["name"] for shard in manifest["shards"]]
            for some in map_unordered(pool, _shard_stats, shards, pick):
                stats.add(some, pick)
                progress.advance(some.samples)
            found.append(Described(folder=folder, manifest=manifest, stats=stats))
    return found


def built_folders(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders with a manifest: the paths themselves, or the folders in them.

    Raises:
        ValueError: a path has none.
    """
    for path in paths:
        inner = sorted(each.parent for each in path.glob(f"*/{NAME}"))
        if inner and not (path / NAME).exists():
            yield from inner
        else:
            read_manifest(path)
            yield path


def _shard_stats(path: Path, pick: int) -> Stats:
    """The counts of one shard."""
    stats = Stats()
    for key, files in read_back(path):
        stats.samples += 1
        fields = json.loads(dict(files)["json"])
        text = str(fields.get("caption", fields.get("text", "")))
        if text:
            stats.words[min(LONGEST, len(text.split()))] += 1
            stats.languages[language(text)] += 1
        if "width" in fields:
            width, height = fields["width"], fields["height"]
            stats.sides[min(width, height)] += 1
            stats.shapes[round(width / height, 1)] += 1
        _draw_sample(stats, f"{path.name}/{key}", text or _label_of(fields), files, pick)
    return stats


def _draw_sample(stats: Stats, name: str, text: str, files: SampleFiles, pick: int) -> None:
    """Keep the sample if its hash is among the smallest so far."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    if len(stats.picked) < pick or (pick and digest < stats.picked[-1].hash):
        image = next((data for suffix, data in files if suffix != "json"), None)
        stats.picked.append(RandomSample(hash=digest, name=name, text=text, image=image))
        stats.picked = heapq.nsmallest(pick, stats.picked)


def _label_of(fields: dict[str, Any]) -> str:
    return str(fields.get("class", fields.get("label", "")))


def mean_words(words: Counter[int]) -> float | None:
    """The mean length of texts, of which long ones count as LONGEST words; None without texts."""
    total = words.total()
    return sum(length * count for length, count in words.items()) / total if total else None

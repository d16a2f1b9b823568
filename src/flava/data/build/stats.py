"""What shards hold: lengths and languages of captions, sizes of images, and some samples."""

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flava.data.build.captions import language
from flava.data.build.manifest import NAME, read_manifest
from flava.data.build.pool import run, workers
from flava.data.build.progress import Progress
from flava.data.build.shard_files import Files, read_back

LONGEST = 60
"""Words of a caption that are told apart: longer ones are counted as this."""


@dataclass(frozen=True, kw_only=True, order=True)
class Picked:
    """A sample that was drawn at random: those of the smallest hashes of their names are."""

    hash: bytes
    name: str
    text: str
    image: bytes | None = None


@dataclass(kw_only=True)
class Stats:
    """What some shards hold."""

    samples: int = 0
    words: Counter[int] = field(default_factory=Counter)
    """Samples by the words of their text."""
    languages: Counter[str] = field(default_factory=Counter)
    """Samples by language, as fastText tells it."""
    sides: Counter[int] = field(default_factory=Counter)
    """Samples by the pixels of the image's shorter side."""
    shapes: Counter[float] = field(default_factory=Counter)
    """Samples by width / height, in tenths."""
    picked: list[Picked] = field(default_factory=list)

    def add(self, other: "Stats", pick: int) -> None:
        """Count those of other shards too."""
        self.samples += other.samples
        for name in ("words", "languages", "sides", "shapes"):
            getattr(self, name).update(getattr(other, name))
        self.picked = heapq.nsmallest(pick, [*self.picked, *other.picked])


@dataclass(frozen=True, kw_only=True)
class Described:
    """The shards of a folder."""

    folder: Path
    manifest: dict[str, Any]
    stats: Stats


def describe(
    paths: Sequence[Path], *, pick: int = 0, processes: int = 1, quiet: bool = False
) -> list[Described]:
    """Read all shards of some folders.

    Args:
        paths: Folders that `flava data build` wrote, or that hold such.
        pick: Samples of each that are drawn.

    Raises:
        ValueError: a path is neither, or a manifest is damaged.
    """
    found = []
    with workers(processes) as pool, Progress(quiet=quiet) as progress:
        for folder in built_folders(paths):
            manifest, stats = read_manifest(folder), Stats()
            progress.step(f"reading {folder}")
            shards = [folder / shard["name"] for shard in manifest["shards"]]
            for some in run(pool, of_shard, shards, pick):
                stats.add(some, pick)
                progress.advance(some.samples)
            found.append(Described(folder=folder, manifest=manifest, stats=stats))
    return found


def built_folders(paths: Sequence[Path]) -> Iterator[Path]:
    """The folders themselves, or those in them, that hold a manifest.

    Raises:
        ValueError: there is none.
    """
    for path in paths:
        inner = sorted(each.parent for each in path.glob(f"*/{NAME}"))
        if inner and not (path / NAME).exists():
            yield from inner
        else:
            read_manifest(path)
            yield path


def of_shard(path: Path, pick: int) -> Stats:
    """What one shard holds."""
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
        draw(stats, f"{path.name}/{key}", text or label_of(fields), files, pick)
    return stats


def draw(stats: Stats, name: str, text: str, files: Files, pick: int) -> None:
    """Keep the sample if its hash is among the smallest so far."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    if len(stats.picked) < pick or (pick and digest < stats.picked[-1].hash):
        image = next((data for suffix, data in files if suffix != "json"), None)
        stats.picked.append(Picked(hash=digest, name=name, text=text, image=image))
        stats.picked = heapq.nsmallest(pick, stats.picked)


def label_of(fields: dict[str, Any]) -> str:
    return str(fields.get("class", fields.get("label", "")))


def mean_words(words: Counter[int]) -> float | None:
    """Of a text, the longest counted as LONGEST; None without texts."""
    total = words.total()
    return sum(length * count for length, count in words.items()) / total if total else None

"""What to run where the shards of the paper's data are missing."""

from pathlib import PurePath

from flava.data.build.sources import SOURCES, Source

PMD = "pmd"
"""The folder of the nine sources of pairs, below the root of the data."""
HELD_OUT = "-val"
IMAGENET = "imagenet-1k"
"""Whose validation images are a split that is published."""


def commands(shards: str, root: str) -> list[str]:
    """For shards below the root, the commands that build them, with sizes and licences.

    Args:
        shards: A path from the root on, as "pmd/*/*.tar" or "ccnews-val/*.jsonl".
        root: The folder of the paper's data.
    """
    folder = PurePath(shards).parts[0]
    if folder == PMD:
        named = {f"{PMD}/{name}": name for name, each in SOURCES.items() if each.pairs is not None}
    else:
        named = {folder: folder.removesuffix(HELD_OUT)}
    return [
        command(SOURCES[name], name, f"{root}/{place}")
        for place, name in named.items()
        if name in SOURCES
    ]


def command(source: Source, name: str, place: str) -> str:
    facts = [] if source.pairs is None else [f"{source.pairs:.1f} M pairs"]
    if not place.endswith(HELD_OUT):
        facts.append(f"about {source.gigabytes} GB")
    elif name == IMAGENET:
        facts.append("of its validation images: torchvision's val/, or validation-*.parquet")
    else:
        facts.append("of files that are in no other shards")
    images = " --images FOLDER" if source.wants_image and not source.beside else ""
    return (
        f"flava data build {name} --annotations FILES{images} --output {place}  "
        f"({', '.join(facts)}; licence: {source.licence})"
    )

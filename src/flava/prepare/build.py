"""`flava data build`: rows to blocks, duplicates out, blocks to shards with a manifest."""

import json
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from flava.core.processes import Submit, map_unordered, process_pool
from flava.core.progress import Progress
from flava.data.manifest import NAME as MANIFEST
from flava.data.manifest import UNFINISHED, read_manifest
from flava.prepare.blocks import Job, RowBlock, Tally, build_block, cut_blocks, from_json
from flava.prepare.config import BuildConfig
from flava.prepare.fetched import URLS, index_fetched, is_fetched
from flava.prepare.finish import count_causes, find_duplicates, hash_evaluation_sets, write_shards
from flava.prepare.manifest import about, manifest, write_manifest
from flava.prepare.shard_files import write_whole
from flava.prepare.sources import SOURCES

FOR_TEXTS = ("flava.data.full_sentences",)
"""What imports PyTorch, which pairs and images do without."""


def build(
    config: BuildConfig, *, processes: int = 1, cluster: str | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Build the shards of a source, or go on where an earlier process ended; the manifest.

    What is written depends on the config and the files alone: not on processes, interruptions or
    the machine.

    Args:
        processes: Of this machine.
        cluster: The address of a Ray cluster whose processes are used instead; all files must be
            at the same paths on all of its machines.
        quiet: Say nothing of the progress.

    Raises:
        ValueError: the config has mistakes (all are listed), an earlier process was given another,
            or no row could be kept.
        OSError: a file could not be written; what is done is kept.
    """
    if problems := config.problems():
        raise ValueError("\n  ".join(["the data cannot be built:", *problems]))
    facts = json.loads(json.dumps(about(config)))
    folder = config.output / UNFINISHED
    if (config.output / MANIFEST).exists():
        done = read_manifest(config.output)
        check_same(facts, done, config.output, "was built from")
        shutil.rmtree(folder, ignore_errors=True)
        return done
    modules = () if SOURCES[config.source].wants_image else FOR_TEXTS
    try:
        begin(folder, facts)
        with process_pool(processes, cluster, modules) as pool, Progress(quiet=quiet) as progress:
            return in_steps(config, facts, folder, pool, progress)
    except OSError as error:
        raise OSError(
            f"{config.output} could not be built ({error}). What is done is kept: when that is put "
            "right (free some space?), the same command goes on"
        ) from error


def begin(folder: Path, facts: dict[str, Any]) -> None:
    """Raises ValueError: there is a build of something else, and some of it is done."""
    path = folder / "about.json"
    if path.exists() and not any(folder.glob("block-*.json")):
        shutil.rmtree(folder)
    if path.exists():
        check_same(facts, json.loads(path.read_bytes()), folder.parent, "was begun with")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(facts).encode())


def check_same(now: dict[str, Any], then: dict[str, Any], output: Path, what: str) -> None:
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        listed = "".join(f"\n  {n}: {then.get(n)} then, {now[n]} now" for n in changed)
        raise ValueError(
            f"--output {output} {what} something else:{listed}\nGive what it {what}, or another "
            f"--output, or delete it to begin anew"
        )


def in_steps(
    config: BuildConfig,
    facts: dict[str, Any],
    folder: Path,
    pool: tuple[Submit, int],
    progress: Progress,
) -> dict[str, Any]:
    """What ``build`` does once all is checked."""
    job = job_of(config, folder)
    unread = prepare(config, job, pool, progress)
    progress.step("reading rows")
    count = fill_blocks(config, job, pool, progress)
    tally, sizes = tally_of(job, count)
    progress.step("looking for duplicates")
    causes, images = find_duplicates(job, sizes, against=bool(config.against))
    count_causes(causes, job, sizes, tally)
    if not tally.kept:
        raise ValueError(nothing_left(config, tally))
    progress.step("writing shards")
    shards = write_shards(job, config.output, sizes, causes, pool, progress)
    content = manifest(facts, tally, images, shards)
    if unread:
        content["against_unread"] = {"images": len(unread), "examples": unread[:3]}
    write_manifest(config.output, content)
    shutil.rmtree(folder)
    return content


def job_of(config: BuildConfig, folder: Path) -> Job:
    source = SOURCES[config.source]
    return Job(
        source=config.source,
        folder=folder,
        images=config.images_folder,
        cleaning=config.cleaning.of(source),
        suffix=source.suffix,
        wants_image=source.wants_image,
        wants_caption=source.wants_caption,
        one_text=source.one_text,
    )


def prepare(
    config: BuildConfig, job: Job, pool: tuple[Submit, int], progress: Progress
) -> list[str]:
    """Tables that the blocks need; what could not be read of the evaluation sets."""
    index = job.folder / "fetched"
    images = job.images
    if job.wants_image and images and is_fetched(images) and not (index / URLS).exists():
        progress.step("indexing what img2dataset fetched")
        index_fetched(images, index)
    if not config.against:
        return []
    progress.step("hashing the evaluation sets")
    return hash_evaluation_sets(config.against, job.cleaning.short_side, pool, job.evaluation)


def fill_blocks(config: BuildConfig, job: Job, pool: tuple[Submit, int], progress: Progress) -> int:
    """Build those that are not there; how many there are."""
    count = 0

    def missing() -> Iterator[RowBlock]:
        nonlocal count
        rows = SOURCES[config.source].read(list(config.annotations))
        for block in cut_blocks(rows, config.rows_in_block):
            count = block.number + 1
            if job.record(block.number).exists():
                progress.advance(len(block.rows))
            else:
                yield block

    for done in map_unordered(pool, build_block, missing(), job):
        progress.advance(done)
    return count


def tally_of(job: Job, count: int) -> tuple[Tally, list[int]]:
    """What became of all rows, and the samples of each block."""
    tally, sizes = Tally(), []
    for number in range(count):
        record = from_json(json.loads(job.record(number).read_bytes()))
        tally.add(record)
        sizes.append(record.kept)
    return tally, sizes


def nothing_left(config: BuildConfig, tally: Tally) -> str:
    reasons = "; ".join(f"{n} times: {reason}" for reason, n in tally.left_out.most_common())
    first = "; ".join(chain.from_iterable(tally.examples.values()))[:500]
    return (
        f"none of the {tally.rows} rows of {config.source} can be used ({reasons}), for example "
        f"{first}: check --annotations and --images"
    )

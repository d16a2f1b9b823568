"""`flava data build`: processes rows in blocks, leaves out duplicates, and writes the shards."""

import json
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from flava.core.files import write_atomically
from flava.core.processes import Submit, map_unordered, process_pool
from flava.core.progress import Progress
from flava.data.manifest import NAME as MANIFEST
from flava.data.manifest import UNFINISHED, read_manifest
from flava.prepare.blocks import Job, RowBlock, Tally, build_block, cut_blocks, from_json
from flava.prepare.build_config import BuildConfig
from flava.prepare.build_manifest import build_facts, manifest_content, write_manifest
from flava.prepare.fetched import URLS, index_fetched, is_fetched
from flava.prepare.finish import (
    count_duplicates,
    find_duplicates,
    hash_evaluation_sets,
    write_shards,
)
from flava.prepare.sources import SOURCES

FOR_TEXTS = ("flava.data.full_sentences",)
"""Modules that texts need; they import PyTorch, which pairs and images do without."""


def build(
    config: BuildConfig, *, processes: int = 1, cluster: str | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Build the shards of a source, or go on where an earlier process ended; returns the manifest.

    What is written depends on the config and the files alone, not on the number of processes, on
    interruptions or on the machine.

    Args:
        processes: The number of processes on this machine.
        cluster: The address of a Ray cluster whose processes are used instead; all files must have
            the same paths on all of its machines.
        quiet: Show no progress bar.

    Raises:
        ValueError: the config has mistakes (all are listed), an earlier process was given another,
            or no row could be kept.
        OSError: a file could not be written; what is done is kept.
    """
    if problems := config.problems():
        raise ValueError("\n  ".join(["the data cannot be built:", *problems]))
    facts = json.loads(json.dumps(build_facts(config)))
    folder = config.output / UNFINISHED
    if (config.output / MANIFEST).exists():
        done = read_manifest(config.output)
        _check_same(facts, done, config.output, "was built from")
        shutil.rmtree(folder, ignore_errors=True)
        return done
    modules = () if SOURCES[config.source].wants_image else FOR_TEXTS
    try:
        _begin_or_resume(folder, facts)
        with process_pool(processes, cluster, modules) as pool, Progress(quiet=quiet) as progress:
            return _run_steps(config, facts, folder, pool, progress)
    except OSError as error:
        raise OSError(
            f"{config.output} could not be built ({error}). What is done is kept: when that is put "
            "right (free some space?), the same command goes on"
        ) from error


def _begin_or_resume(folder: Path, facts: dict[str, Any]) -> None:
    """Raises ValueError: another build is there, and some of its blocks are done."""
    path = folder / "about.json"
    if path.exists() and not any(folder.glob("block-*.json")):
        shutil.rmtree(folder)
    if path.exists():
        _check_same(facts, json.loads(path.read_bytes()), folder.parent, "was begun with")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(facts).encode())


def _check_same(now: dict[str, Any], then: dict[str, Any], output: Path, what: str) -> None:
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        listed = "".join(f"\n  {n}: {then.get(n)} then, {now[n]} now" for n in changed)
        raise ValueError(
            f"--output {output} {what} something else:{listed}\nGive what it {what}, or another "
            f"--output, or delete it to begin anew"
        )


def _run_steps(
    config: BuildConfig,
    facts: dict[str, Any],
    folder: Path,
    pool: tuple[Submit, int],
    progress: Progress,
) -> dict[str, Any]:
    """The steps of a build whose arguments were checked; returns the manifest."""
    job = _make_job(config, folder)
    unread = _write_tables(config, job, pool, progress)
    progress.step("reading rows")
    count = _build_missing_blocks(config, job, pool, progress)
    tally, sizes = _total_tally(job, count)
    progress.step("looking for duplicates")
    reasons, images = find_duplicates(job, sizes, against=bool(config.against))
    count_duplicates(reasons, job, sizes, tally)
    if not tally.kept:
        raise ValueError(_nothing_left_message(config, tally))
    progress.step("writing shards", tally.kept)
    shards = write_shards(job, config.output, sizes, reasons, pool, progress)
    content = manifest_content(facts, tally, images, shards)
    if unread:
        content["against_unread"] = {"images": len(unread), "examples": unread[:3]}
    write_manifest(config.output, content)
    shutil.rmtree(folder)
    return content


def _make_job(config: BuildConfig, folder: Path) -> Job:
    source = SOURCES[config.source]
    return Job(
        source=config.source,
        folder=folder,
        images=config.images_folder,
        cleaning=config.cleaning.with_defaults_of(source),
        suffix=source.suffix,
        wants_image=source.wants_image,
        wants_caption=source.wants_caption,
        one_text=source.one_text,
    )


def _write_tables(
    config: BuildConfig, job: Job, pool: tuple[Submit, int], progress: Progress
) -> list[str]:
    """Write the tables that the blocks need; returns reports on unreadable evaluation images."""
    index = job.folder / "fetched"
    images = job.images
    if job.wants_image and images and is_fetched(images) and not (index / URLS).exists():
        progress.step("indexing what img2dataset fetched")
        index_fetched(images, index)
    if not config.against:
        return []
    progress.step("hashing the evaluation sets")
    return hash_evaluation_sets(config.against, job.cleaning.short_side, pool, job.evaluation)


def _build_missing_blocks(
    config: BuildConfig, job: Job, pool: tuple[Submit, int], progress: Progress
) -> int:
    """Build the blocks that are not done yet; returns the number of all blocks."""
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


def _total_tally(job: Job, count: int) -> tuple[Tally, list[int]]:
    """The tally of all rows, and the number of samples in each block."""
    tally, sizes = Tally(), []
    for number in range(count):
        record = from_json(json.loads(job.record(number).read_bytes()))
        tally.add(record)
        sizes.append(record.kept)
    return tally, sizes


def _nothing_left_message(config: BuildConfig, tally: Tally) -> str:
    reasons = "; ".join(f"{n} times: {reason}" for reason, n in tally.left_out.most_common())
    first = "; ".join(chain.from_iterable(tally.examples.values()))[:500]
    return (
        f"none of the {tally.rows} rows of {config.source} can be used ({reasons}), for example "
        f"{first}: check --annotations and --images"
    )

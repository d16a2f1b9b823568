"""`flava data`: the paper's data, from its published files to shards that train.

What needs PyTorch is imported where it is used: a build starts in a tenth of the time without it.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from flava.core.processes import cores
from flava.prepare.build import build
from flava.prepare.config import BuildConfig, CleaningConfig
from flava.prepare.inspection import Described, built_folders, check, describe, mean_words
from flava.prepare.sources import SOURCES, PublishedSource
from flava.prepare.url_list import write_urls

SHOWN_MISTAKES = 20
FETCH = """\
  pip install img2dataset
  img2dataset --url_list {urls} --input_format parquet --url_col url \\
    --output_folder images --output_format webdataset --resize_mode keep_ratio \\
    --image_size {size} --resize_only_if_bigger True --encode_quality 95"""
"""img2dataset asks for webdataset below 0.3, and this package for 1.0 or newer: they cannot share
an environment. Its keep_ratio makes the shorter side --image_size."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Show the sources: their files, images, counts in the paper, and licences."""


@dataclass(frozen=True, kw_only=True)
class Build(BuildConfig):
    """Build shards of a source from its files as they are published.

    A command that was interrupted, or killed, goes on where it was when it is run again. What is
    left out is counted, by reason and with examples, in OUTPUT/manifest.json.
    """

    source: tyro.conf.Positional[str]
    """Which; flava data sources lists them."""
    processes: int | None = None
    """Processes of this machine; as many as it has cores if not set."""
    cluster: str | None = None
    """The address of a Ray cluster whose processes are used instead ("auto" on one of its
    machines). All paths must be the same on all of them."""


@dataclass(frozen=True, kw_only=True)
class Urls:
    """List the images that img2dataset is to fetch: those of the pairs whose caption passes."""

    source: tyro.conf.Positional[str]
    """Which; flava data sources lists them."""
    annotations: tuple[Path, ...]
    """The source's files."""
    output: Path
    """The Parquet to write."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    processes: int | None = None
    """As for flava data build."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Read shards again, whole, and compare them with their manifests."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that flava data build wrote, or that hold such (data/pmd)."""
    processes: int | None = None
    """As for flava data build."""


@dataclass(frozen=True, kw_only=True)
class StatsOf:
    """Describe shards: pairs, images, lengths, languages, sizes, licences, beside the paper's."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that flava data build wrote, or that hold such (data/pmd)."""
    html: Path | None = None
    """A page to write, with histograms and samples."""
    processes: int | None = None
    """As for flava data build."""


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Write shards again with the codes of a codebook in them, so that training need not compute
    them: flava train NAME --data.image.stored-codes NAME_OF_THE_CODES. They are of whole images."""

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars, as training takes them: paths, globs and brace expansions."""
    codebook: str
    """A run, a checkpoint, a hub id, or shipped:codebook-tiny."""
    output: Path
    """Folder for the new shards."""
    codebook_size: int = 112
    """Pixels a side that the codebook sees: image_size / patch_size * 8."""


Action = (
    Annotated[Sources, tyro.conf.subcommand("sources")]
    | Annotated[Build, tyro.conf.subcommand("build")]
    | Annotated[Urls, tyro.conf.subcommand("urls")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[StatsOf, tyro.conf.subcommand("stats")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
)


def data(action: Annotated[Action, tyro.conf.arg(name="")]) -> None:
    """Build the paper's data, or one's own, into shards that train; check and describe them."""
    match action:
        case Sources():
            print(listing())
        case Build():
            build_shards(action)
        case Urls():
            list_urls(action)
        case Check():
            check_shards(action)
        case StatsOf():
            show_stats(action)
        case Tokenize():
            tokenize_shards(action)


def listing() -> str:
    """A few lines for each source."""
    return "\n".join(described(name, source) for name, source in SOURCES.items())


def described(name: str, source: PublishedSource) -> str:
    count = "" if source.pairs is None else f", {source.pairs:.1f} M pairs in the paper"
    images = source.images
    if source.fetched:
        images = f"what img2dataset fetched (flava data urls), or a {images}"
    return (
        f"{name}: {source.title}{count}; {source.publisher}\n"
        f"    --annotations  {source.files}\n"
        f"    --images       {images}\n"
        f"    licence        {source.licence}"
    )


def build_shards(action: Build) -> None:
    processes = processes_of(action.processes)
    done = build(action, processes=processes, cluster=action.cluster)
    print(summary(done))
    print(f"built: {action.output}. Next: flava data stats {action.output}")


def processes_of(given: int | None) -> int:
    """Raises ValueError: fewer than one are given."""
    if given is not None and given < 1:
        raise ValueError(f"--processes is {given}: use at least 1")
    return given or cores()


def list_urls(action: Urls) -> None:
    """Write them, and show the command that fetches them."""
    config = BuildConfig(
        source=action.source,
        annotations=action.annotations,
        output=action.output.parent,
        cleaning=action.cleaning,
    )
    rows, urls = write_urls(config, action.output, processes=processes_of(action.processes))
    print(f"{urls:,} URLs of {rows:,} rows: {action.output}. Next, in an environment of its own:")
    cleaning = config.cleaning.of(SOURCES[config.source])
    print(FETCH.format(urls=action.output, size=cleaning.short_side))


def tokenize_shards(action: Tokenize) -> None:
    """Write them, and say what they are called."""
    from flava.checkpoints.digests import codes_name
    from flava.prepare.codes import load_codebook, tokenize

    codebook = load_codebook(action.codebook)
    counts = tokenize(list(action.shards), codebook, action.codebook_size, action.output)
    for reason, count in counts.items():
        print(f"{count:,} samples {f'without codes: {reason}' if reason else 'have codes'}")
    print(
        f"tokenized: {action.output}. Next: flava train RECIPE --data.image.stored-codes "
        f"{codes_name(codebook)} --data.image.crop-scale 1 1"
    )


def summary(done: dict[str, Any]) -> str:
    """What a build kept and left out."""
    kept, rows = f"{done['kept']:,}", f"{done['rows']:,} rows"
    # Sentences become passages, a narrative's sentences pairs: then samples are no rows.
    alike = done["kept"] + sum(done["left_out"].values()) == done["rows"]
    lines = [
        f"{f'{kept} of {rows} kept' if alike else f'{kept} samples of {rows}'} in "
        f"{len(done['shards'])} shards, {done['bytes'] / 1e9:.2f} GB"
    ]
    for reason, count in sorted(done["left_out"].items(), key=lambda each: -each[1]):
        example = next(iter(done["examples"].get(reason, [])), "")
        lines.append(f"  {count:,} left out: {reason}" + (f" ({example})" if example else ""))
    return "\n".join(lines)


def check_shards(action: Check) -> None:
    """Raises ValueError: something is wrong with them."""
    processes = processes_of(action.processes)
    folders = list(built_folders(action.shards))
    mistakes = [m for folder in folders for m in check(folder, processes=processes)]
    for folder in folders:
        print(f"checked: {folder}", file=sys.stderr)
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        shown = [*mistakes[:SHOWN_MISTAKES], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError("\n  ".join(["the shards are damaged; build them again:", *shown]))
    print("all shards are as their manifests tell")


def show_stats(action: StatsOf) -> None:
    """The table, and the page if one is asked for."""
    from flava.reports.data_report import PICTURES, write_data_report

    pick = PICTURES if action.html else 0
    found = describe(action.shards, pick=pick, processes=processes_of(action.processes))
    Console().print(stats_table(found))
    if action.html is not None:
        write_data_report(found, action.html)
        print(f"page: {action.html}")


def stats_table(found: list[Described]) -> Table:
    """A row a folder."""
    from flava.reports.formatting import readable_bytes

    table = Table(title="What the shards hold", title_style="")
    table.add_column("folder", overflow="fold")
    for heading in ("samples", "the paper's", "images", "words", "language", "size"):
        table.add_column(heading, justify="right")
    for each in found:
        source, words = SOURCES.get(each.manifest["source"]), mean_words(each.stats.words)
        language = ", ".join(name for name, _ in each.stats.languages.most_common(1))
        table.add_row(
            str(each.folder),
            f"{each.stats.samples:,}",
            f"{source.pairs:.1f} M" if source and source.pairs else "",
            f"{each.manifest['images']:,}",
            "" if words is None else f"{words:.1f}",
            language,
            readable_bytes(each.manifest["bytes"]),
        )
    return table

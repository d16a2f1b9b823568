"""`flava data`: builds shards from published data sets or users' own data, and inspects them.

Modules that need PyTorch are imported where they are used: without it a build starts in a tenth of
the time.
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
from flava.prepare.build_config import BuildConfig, CleaningConfig
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
class ShowSources:
    """List the sources, with their files, images, numbers of pairs in the paper, and licences."""


@dataclass(frozen=True, kw_only=True)
class BuildShards(BuildConfig):
    """Build shards of a source from its published files.

    If the command is interrupted or killed, run it again: it continues where it stopped. Rows that
    are left out are counted in OUTPUT/manifest.json, by reason and with examples.
    """

    source: tyro.conf.Positional[str]
    """The name of the source; flava data sources lists all names."""
    processes: int | None = None
    """Number of processes on this machine. By default the number of its cores."""
    cluster: str | None = None
    """The address of a Ray cluster that does the work instead of processes on this machine; "auto"
    if this is one of its machines. All paths must be the same on all of them."""


@dataclass(frozen=True, kw_only=True)
class ListUrls:
    """Write the URLs of the images to download with img2dataset: those whose caption passes the
    filters."""

    source: tyro.conf.Positional[str]
    """The name of the source; flava data sources lists all names."""
    annotations: tuple[Path, ...]
    """The files of the source, as flava data sources names them."""
    output: Path
    """The Parquet file to write."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    processes: int | None = None
    """Number of processes on this machine. By default the number of its cores."""


@dataclass(frozen=True, kw_only=True)
class CheckShards:
    """Read all shards, and compare them with their manifests."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that flava data build wrote, or folders that contain such folders, such as
    data/pmd."""
    processes: int | None = None
    """Number of processes on this machine. By default the number of its cores."""


@dataclass(frozen=True, kw_only=True)
class ShowStats:
    """Describe shards: samples, images, lengths, languages and sizes, next to the paper's
    numbers."""

    shards: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that flava data build wrote, or folders that contain such folders, such as
    data/pmd."""
    html: Path | None = None
    """An HTML page to write, with histograms, samples and licences."""
    processes: int | None = None
    """Number of processes on this machine. By default the number of its cores."""


@dataclass(frozen=True, kw_only=True)
class TokenizeShards:
    """Write shards again with the codes of whole images in them, so that training need not compute
    them. Train with --data.image.stored-codes and the name that this command prints."""

    shards: tyro.conf.Positional[tuple[str, ...]]
    """Tars: paths, which may have globs and braces, as for training."""
    codebook: str
    """The codebook: a run, a checkpoint, a hub id, or shipped:codebook-tiny."""
    output: Path
    """The folder to write the new shards to."""
    codebook_size: int = 112
    """Height and width in pixels of the codebook's input: image_size / patch_size * 8."""


DataCommand = (
    Annotated[ShowSources, tyro.conf.subcommand("sources")]
    | Annotated[BuildShards, tyro.conf.subcommand("build")]
    | Annotated[ListUrls, tyro.conf.subcommand("urls")]
    | Annotated[CheckShards, tyro.conf.subcommand("check")]
    | Annotated[ShowStats, tyro.conf.subcommand("stats")]
    | Annotated[TokenizeShards, tyro.conf.subcommand("tokenize")]
)


def data(action: Annotated[DataCommand, tyro.conf.arg(name="")]) -> None:
    """Build shards for training from the paper's data or your own; check and describe shards."""
    match action:
        case ShowSources():
            print(_listing())
        case BuildShards():
            _build_shards(action)
        case ListUrls():
            _list_urls(action)
        case CheckShards():
            _check_shards(action)
        case ShowStats():
            _show_stats(action)
        case TokenizeShards():
            _tokenize_shards(action)


def _listing() -> str:
    """A few lines about each source."""
    return "\n".join(_described(name, source) for name, source in SOURCES.items())


def _described(name: str, source: PublishedSource) -> str:
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


def _build_shards(action: BuildShards) -> None:
    processes = _processes_of(action.processes)
    done = build(action, processes=processes, cluster=action.cluster)
    print(_summary(done))
    print(f"built: {action.output}. Next: flava data stats {action.output}")


def _processes_of(given: int | None) -> int:
    """Raises ValueError: fewer than one are given."""
    if given is not None and given < 1:
        raise ValueError(f"--processes is {given}: use at least 1")
    return given or cores()


def _list_urls(action: ListUrls) -> None:
    """Write the list, and show the command that fetches the images."""
    config = BuildConfig(
        source=action.source,
        annotations=action.annotations,
        output=action.output.parent,
        cleaning=action.cleaning,
    )
    rows, urls = write_urls(config, action.output, processes=_processes_of(action.processes))
    print(f"{urls:,} URLs of {rows:,} rows: {action.output}. Next, in an environment of its own:")
    cleaning = config.cleaning.with_defaults_of(SOURCES[config.source])
    print(FETCH.format(urls=action.output, size=cleaning.short_side))


def _tokenize_shards(action: TokenizeShards) -> None:
    """Write the shards, and say how to train on them."""
    from flava.checkpoints.digests import codebook_digest
    from flava.prepare.codes import load_codebook, tokenize

    codebook = load_codebook(action.codebook)
    counts = tokenize(list(action.shards), codebook, action.codebook_size, action.output)
    for reason, count in counts.items():
        print(f"{count:,} samples {f'without codes: {reason}' if reason else 'have codes'}")
    print(
        f"tokenized: {action.output}. Next: flava train RECIPE --data.image.stored-codes "
        f"{codebook_digest(codebook)} --data.image.crop-scale 1 1"
    )


def _summary(done: dict[str, Any]) -> str:
    """The numbers of rows that a build kept and left out."""
    kept, rows = f"{done['kept']:,}", f"{done['rows']:,} rows"
    # Where sentences become passages, or a narrative several pairs, samples are not rows.
    are_rows = done["kept"] + sum(done["left_out"].values()) == done["rows"]
    lines = [
        f"{f'{kept} of {rows} kept' if are_rows else f'{kept} samples of {rows}'} in "
        f"{len(done['shards'])} shards, {done['bytes'] / 1e9:.2f} GB"
    ]
    for reason, count in sorted(done["left_out"].items(), key=lambda each: -each[1]):
        example = next(iter(done["examples"].get(reason, [])), "")
        lines.append(f"  {count:,} left out: {reason}" + (f" ({example})" if example else ""))
    return "\n".join(lines)


def _check_shards(action: CheckShards) -> None:
    """Raises ValueError: some shards are damaged."""
    processes = _processes_of(action.processes)
    folders = list(built_folders(action.shards))
    mistakes = [m for folder in folders for m in check(folder, processes=processes)]
    for folder in folders:
        print(f"checked: {folder}", file=sys.stderr)
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        shown = [*mistakes[:SHOWN_MISTAKES], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError("\n  ".join(["the shards are damaged; build them again:", *shown]))
    print("all shards match their manifests")


def _show_stats(action: ShowStats) -> None:
    """Print the table, and write the page if one is wanted."""
    from flava.reports.data_report import PICTURES, write_data_report

    pick = PICTURES if action.html else 0
    found = describe(action.shards, pick=pick, processes=_processes_of(action.processes))
    Console().print(_stats_table(found))
    if action.html is not None:
        write_data_report(found, action.html)
        print(f"page: {action.html}")


def _stats_table(found: list[Described]) -> Table:
    """A table with a row for each folder."""
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

"""`flava data urls`: lists the URLs of the images to download with img2dataset.

Only the URLs of pairs whose caption passes the filters are listed, which are less than a third of
YFCC100M's hundred million.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flava.core.files import atomic_file
from flava.core.processes import map_unordered, process_pool
from flava.core.progress import Progress
from flava.data.errors import SampleError
from flava.prepare.blocks import RowBlock, cut_blocks
from flava.prepare.build_config import BuildConfig, CleaningConfig
from flava.prepare.fetched import check_url
from flava.prepare.rows import AnnotationRow
from flava.prepare.sources import SOURCES
from flava.prepare.texts import caption_of

SCHEMA = pa.schema([("url", pa.string())])


def write_urls(
    config: BuildConfig, path: Path, *, processes: int = 1, quiet: bool = False
) -> tuple[int, int]:
    """Write a Parquet file with a column "url"; returns the numbers of rows read and URLs written.

    A URL is left out if it equals the one before it; later repetitions are kept.

    Raises:
        ValueError: the config has mistakes, or the source has no URLs.
        OSError: the file could not be written; nothing of it is left.
    """
    if problems := config.problems():
        raise ValueError("\n  ".join(["the URLs cannot be listed:", *problems]))
    source = SOURCES[config.source]
    rows = written = 0
    last = ""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        with (
            process_pool(processes) as pool,
            Progress(quiet=quiet) as progress,
            pq.ParquetWriter(partial, SCHEMA) as file,
        ):
            progress.step("reading rows")
            blocks = cut_blocks(source.read(list(config.annotations)), config.rows_in_block)
            cleaning = config.cleaning.with_defaults_of(source)
            for size, found in _in_order(map_unordered(pool, _urls_of, blocks, cleaning)):
                fresh = [
                    url for url, before in zip(found, [last, *found], strict=False) if url != before
                ]
                file.write_table(pa.table({"url": pa.array(fresh, pa.string())}, schema=SCHEMA))
                last = found[-1] if found else last
                rows, written = rows + size, written + len(fresh)
                progress.advance(size)
        if not written:
            raise ValueError(f"none of the {rows} rows of {config.source} has a URL to be fetched")
    return rows, written


def _urls_of(block: RowBlock, cleaning: CleaningConfig) -> tuple[int, int, list[str]]:
    """The block's number, its number of rows, and the URLs of the rows that pass."""
    found = []
    for row in block.rows:
        if isinstance(row, AnnotationRow) and row.url is not None:
            try:
                caption_of(row.captions, cleaning.min_words or 1, bool(cleaning.english))
                found.append(check_url(row.url))
            except SampleError:
                continue
    return block.number, len(block.rows), found


def _in_order(done: Iterable[tuple[int, int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    """The blocks' results in the order of their numbers, each as soon as those before it came."""
    early: dict[int, tuple[int, list[str]]] = {}
    number = 0
    for which, size, found in done:
        early[which] = (size, found)
        while number in early:
            yield early.pop(number)
            number += 1

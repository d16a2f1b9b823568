"""`flava search index` and `flava search query`: find images and texts by text or image."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flava.cli.embed import PrecisionOption, one_source
from flava.core.files import write_atomically
from flava.inference.bulk import BATCH_SIZE
from flava.inference.int8 import InferencePrecision
from flava.inference.load import load
from flava.inference.search import Index, build_index, check_no_index, index_embeddings
from flava.reports.search_page import results_page


@dataclass(frozen=True, kw_only=True)
class BuildIndex:
    """Make an index of images or texts, which flava search query then searches."""

    output: Path
    """The folder to write the index to."""
    model: str | None = None
    """Where the model comes from: an id on the Hugging Face hub, a folder (also a run's) or a file
    of weights. Not needed with --embeddings."""
    images: str | None = None
    """A folder of images, tars ('data/*.tar'), or a table (CSV, TSV, JSON lines, Parquet) with a
    column image, path or file."""
    texts: str | None = None
    """A file with one text per line, tars, or a table with a column text, caption, captions,
    content or maintext."""
    embeddings: Path | None = None
    """A Parquet file that flava embed wrote, to be indexed instead of --images or --texts."""
    batch_size: int = BATCH_SIZE
    """Number of rows in a batch."""
    device: str = "auto"
    """A device of PyTorch, such as cpu or cuda:0. "auto" uses a GPU if there is one."""
    precision: PrecisionOption = InferencePrecision.FP32
    """Number format of matrix products. int8 is for CPUs only."""


@dataclass(frozen=True, kw_only=True)
class QueryIndex:
    """Find the images or texts of an index that are most similar to a text or an image."""

    index: tyro.conf.Positional[Path]
    """The folder of the index."""
    text: str | None = None
    """The text to search for."""
    image: Path | None = None
    """The image to search for, instead of --text."""
    top: int = 10
    """Number of results to show."""
    html: Path | None = None
    """An HTML page to write, which shows the results with their images."""
    model: str | None = None
    """Where the model comes from, if it has been moved since the index was made."""
    device: str = "auto"
    """A device of PyTorch, such as cpu or cuda:0. "auto" uses a GPU if there is one."""


SearchAction = (
    Annotated[BuildIndex, tyro.conf.subcommand("index")]
    | Annotated[QueryIndex, tyro.conf.subcommand("query")]
)


def search(action: Annotated[SearchAction, tyro.conf.arg(name="")]) -> None:
    """Find images or texts by text or image: first index them, then query the index."""
    if isinstance(action, BuildIndex):
        _run_index(action)
    else:
        _run_query(action)


def _run_index(given: BuildIndex) -> None:
    check_no_index(given.output)
    if given.embeddings is not None:
        if given.images or given.texts:
            raise ValueError("give --embeddings alone, or one of --images and --texts")
        result = index_embeddings(given.embeddings, given.output)
    else:
        source = one_source(given.images, given.texts)
        if given.model is None:
            raise ValueError("--model is missing: name the model that makes the embeddings")
        pretrained = load(given.model, device=given.device, precision=given.precision)
        result = build_index(
            pretrained, source, given.output, model=given.model, batch_size=given.batch_size
        )
    print(result)
    print(f'next: flava search query {given.output} --text "..."')


def _run_query(given: QueryIndex) -> None:
    index = Index(given.index)
    if (given.text is None) == (given.image is None):
        raise ValueError("give one of --text and --image")
    if given.top < 1:
        raise ValueError(f"--top is {given.top}: use at least 1")
    source = given.model or index.about.source
    pretrained = load(source, device=given.device)
    index.check_model(pretrained.identity, source)
    if given.image is not None:
        query, vectors = given.image, pretrained.encode_image([given.image])
    else:
        query, vectors = str(given.text), pretrained.encode_text([str(given.text)])
    started = time.perf_counter()
    hits = index.search(np.asarray(vectors[0]), given.top)
    seconds = time.perf_counter() - started
    for hit in hits:
        print(f"{hit.place:3d}  {hit.cosine:.3f}  {hit.name}")
    print(f"of {index.about.rows:,} {index.about.kind}, in {1000 * seconds:.0f} ms")
    if given.html is not None:
        write_atomically(given.html, results_page(index, query, hits, seconds).encode())
        print(f"page: {given.html}")

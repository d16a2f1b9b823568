"""`flava search index` and `flava search query`: images and texts found by text or image."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flava.cli.embed import one_source
from flava.core.files import write_atomically
from flava.inference.bulk import BATCH_SIZE
from flava.inference.int8 import InferencePrecision
from flava.inference.load import load
from flava.inference.search import Index, build_index, check_free, index_embeddings
from flava.reports.search_page import results_page


@dataclass(frozen=True, kw_only=True)
class Build:
    """Index a folder's images, or texts, once."""

    output: Path
    """The index's folder."""
    model: str | None = None
    """Where the model comes from: anything that flava.load takes. Not needed with --embeddings."""
    images: str | None = None
    """A folder of images, tars, or a table, as for flava embed."""
    texts: str | None = None
    """Plain text, tars, or a table, as for flava embed."""
    embeddings: Path | None = None
    """What flava embed wrote to Parquet, instead of --images or --texts."""
    batch_size: int = BATCH_SIZE
    """Rows that are computed at once."""
    device: str = "auto"
    """As torch names it; auto takes a GPU if there is one."""
    precision: Annotated[InferencePrecision, tyro.conf.EnumChoicesFromValues] = (
        InferencePrecision.FP32
    )
    """What matrix products are computed in."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Find what is most similar to a text or to an image."""

    index: tyro.conf.Positional[Path]
    """The index's folder."""
    text: str | None = None
    """What is searched for, in words."""
    image: Path | None = None
    """Or an image that what is searched for should be like."""
    top: int = 10
    """How many are shown."""
    html: Path | None = None
    """A page to write, with the images that were found in it."""
    model: str | None = None
    """Where the model comes from, if it is not any more where it was when the index was made."""
    device: str = "auto"
    """As torch names it; auto takes a GPU if there is one."""


Action = (
    Annotated[Build, tyro.conf.subcommand("index")]
    | Annotated[Query, tyro.conf.subcommand("query")]
)


def search(action: Annotated[Action, tyro.conf.arg(name="")]) -> None:
    """Find images or texts by text or image: index once, then query."""
    if isinstance(action, Build):
        build(action)
    else:
        ask(action)


def build(given: Build) -> None:
    check_free(given.output)
    if given.embeddings is not None:
        if given.images or given.texts:
            raise ValueError("give --embeddings alone, or one of --images and --texts")
        outcome = index_embeddings(given.embeddings, given.output)
    else:
        source = one_source(given.images, given.texts)
        if given.model is None:
            raise ValueError("--model is missing: name the model that makes the embeddings")
        pretrained = load(given.model, device=given.device, precision=given.precision)
        outcome = build_index(
            pretrained, source, given.output, model=given.model, batch_size=given.batch_size
        )
    print(outcome)
    print(f'next: flava search query {given.output} --text "..."')


def ask(given: Query) -> None:
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

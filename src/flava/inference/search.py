"""A search index of embeddings: built once, then queried by text or image.

An index is a folder with ``vectors.npy`` (unit vectors in 32 bits, written last),
``vectors.rows.jsonl`` (the name of each row) and ``vectors.about.json`` (how the vectors were
made). A query is compared with every vector, so the result is exact. The vectors are mapped into
memory from their file: to search a million of 512 dimensions takes 0.2 s
(docs/decisions/0013-rows-and-search.md).
"""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from pydantic import TypeAdapter, ValidationError
from usearch.compiled import MetricKind
from usearch.index import search as nearest

from flava.core.files import explain_errors
from flava.data.tables import open_parquet
from flava.inference.bulk import BATCH_SIZE, BulkResult, embed_rows, finish_output, row_progress
from flava.inference.output_files import ABOUT, METADATA_PREFIX, ROWS, PartialOutput, companion_path
from flava.inference.pretrained import Pretrained
from flava.inference.row_sources import InputKind, InputSource

VECTORS = "vectors.npy"
CHUNK_ROWS = 4096
"""Rows that are read at once from a file of embeddings."""
NO_PAIRS = "pairs cannot be searched: their embeddings are not of the contrastive space"
UNIT_TOLERANCE = 1e-3
"""How far the length of an embedding may be from 1: as far as 16 bits can change it."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """The fields of vectors.about.json that a search needs."""

    model: str
    """The identity of the model that made them."""
    source: str
    """Where that model was loaded from, as `flava.load` takes it."""
    kind: str
    """The kind of the rows, images or texts."""
    metric: str
    """How the vectors are compared: "cosine"."""
    root: str
    """The folder that the images' paths start from."""
    rows: int
    width: int


INDEX_INFO = TypeAdapter(IndexInfo)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A search result."""

    place: int
    """1 for the most similar row."""
    row: int
    cosine: float
    name: str
    """The path of the image, or the text."""


class Index:
    """A search index on disk.

    Raises:
        FileNotFoundError: the folder holds no index, or an unfinished one.
        ValueError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / VECTORS
        if not path.is_file():
            raise FileNotFoundError(
                f"no index at {folder}: make one with flava search index --output {folder}; "
                "where that was interrupted, the same command goes on"
            )
        try:
            self.about = INDEX_INFO.validate_json(companion_path(path, ABOUT).read_bytes())
            self.vectors: Float32[np.ndarray, "rows width"] = np.load(path, mmap_mode="r")
        except ValidationError as error:
            raise ValueError(
                f"{companion_path(path, ABOUT)} does not describe an index:{explain_errors(error)}"
            ) from error
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}): index again") from error
        if self.vectors.shape != (self.about.rows, self.about.width):
            raise ValueError(f"{path} has not the shape that is said beside it: index again")

    def check_model(self, identity: str, source: str) -> None:
        """Raises ValueError if the vectors were made by another model."""
        if identity != self.about.model:
            raise ValueError(
                f"{self.folder} was made by another model, whose vectors cannot be compared:\n"
                f"  the index: {self.about.model} ({self.about.source})\n"
                f"  now: {identity} ({source})\n"
                f"Leave out --model to take the index's own, or index again with {source}"
            )

    def search(self, query: Float32[np.ndarray, " query_width"], top: int = 10) -> list[Hit]:
        """The most similar rows, best first; of equally similar rows the earlier first.

        Raises:
            ValueError: the query has another width, or ``top`` is not positive.
        """
        if top < 1:
            raise ValueError(f"--top is {top}: use at least 1")
        if query.shape != (self.about.width,):
            raise ValueError(f"the query has {query.size} dimensions, the index {self.about.width}")
        matches = nearest(
            self.vectors, query, min(top, self.about.rows), MetricKind.IP, exact=True, threads=0
        )
        cosines = {int(row): float(self.vectors[row] @ query) for row in matches.keys}
        order = sorted(cosines, key=lambda row: (-cosines[row], row))
        names = self._names(order)
        return [
            Hit(place=place, row=row, cosine=cosines[row], name=names[row])
            for place, row in enumerate(order, 1)
        ]

    def _names(self, rows: list[int]) -> dict[int, str]:
        """The names of some rows. Other lines are not parsed: a million are split in 0.03 s."""
        path = companion_path(self.folder / VECTORS, ROWS)
        column = "path" if self.about.kind == InputKind.IMAGES.value else "text"
        try:
            lines = np.memmap(path, np.uint8, "r")
            ends = np.flatnonzero(lines == ord("\n"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): index again") from error
        if len(ends) != self.about.rows:
            raise ValueError(f"{path} has not as many rows as there are vectors: index again")
        starts = np.concatenate(([0], ends + 1))
        return {row: json.loads(lines[starts[row] : ends[row]].tobytes())[column] for row in rows}


def build_index(
    pretrained: Pretrained,
    source: InputSource,
    folder: Path,
    *,
    model: str,
    batch_size: int = BATCH_SIZE,
) -> BulkResult:
    """Index the images or texts of a source; ``model`` is where the model was loaded from.

    Raises:
        FileExistsError: the folder holds an index.
        ValueError: the source holds pairs; or as `embed_rows`.
        OSError: as `embed_rows`.
    """
    check_no_index(folder)
    if source.kind is InputKind.PAIRS:
        raise ValueError(NO_PAIRS)
    return embed_rows(pretrained, source, folder / VECTORS, model=model, batch_size=batch_size)


def index_embeddings(file: Path, folder: Path) -> BulkResult:
    """Index the embeddings that ``flava embed`` wrote to Parquet, without a model.

    Raises:
        FileExistsError: the folder holds an index.
        FileNotFoundError: there is no such file.
        ValueError: it was not written by ``flava embed``, or holds embeddings of pairs.
        OSError: the index cannot be written.
    """
    check_no_index(folder)
    notes = _metadata(file)
    name = "path" if notes["kind"] == InputKind.IMAGES.value else "text"
    about = {"embeddings": str(file), "model": notes.pop("model"), "input": notes.pop("input")}
    partial = PartialOutput(folder / VECTORS, about, notes)
    resumed, seen = partial.journal.consumed, 0
    with open_parquet(file) as table, closing(partial), row_progress(partial) as show:
        for batch in table.iter_batches(CHUNK_ROWS):
            seen += batch.num_rows
            if seen <= resumed:
                continue
            rows = [{name: each} for each in batch.column(name).to_pylist()]
            partial.append(rows, _unit_vectors(batch.column("embedding"), file), (), seen)
            show(seen / table.metadata.num_rows)
        partial.commit()
    return finish_output(partial, resumed)


def _unit_vectors(column: pa.Array, file: Path) -> Float32[np.ndarray, "rows width"]:
    """The vectors of a column.

    Raises:
        ValueError: a vector does not have length 1, or holds NaN.
    """
    vectors = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
    off = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT_TOLERANCE)
    if off.any():
        raise ValueError(f"{file}: {off.sum()} embeddings are not of length 1: embed again")
    return vectors


def _metadata(file: Path) -> dict[str, str]:
    """What ``flava embed`` wrote into the schema about how the file was made."""
    try:
        stored = pq.read_schema(file).metadata or {}
    except pa.ArrowException as error:
        raise ValueError(f"{file} is no Parquet file, or damaged ({error})") from error
    start = METADATA_PREFIX.encode()
    found = {
        name.removeprefix(start).decode(): value.decode()
        for name, value in stored.items()
        if name.startswith(start)
    }
    if missing := {"model", "input", "kind", "source", "root"} - found.keys():
        raise ValueError(
            f"{file} does not say what made it ({', '.join(sorted(missing))} missing): give what "
            "flava embed wrote, or index the images or texts themselves"
        )
    if found["kind"] == InputKind.PAIRS.value:
        raise ValueError(f"{file}: {NO_PAIRS}")
    return found


def check_no_index(folder: Path) -> None:
    """Raises FileExistsError if the folder holds an index."""
    if (folder / VECTORS).exists():
        raise FileExistsError(f"{folder} holds an index: delete it, or give another --output")

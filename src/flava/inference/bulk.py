"""Embeds, classifies or matches any number of rows into one table, in bounded memory.

A command that was interrupted continues where it stopped when it is run again.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from flava.core.progress import share_progress
from flava.data.errors import SkippedSample
from flava.inference.output_files import PartialOutput, ResultColumns, check_output, write_output
from flava.inference.pretrained import Pretrained
from flava.inference.row_sources import InputBatch, InputKind, InputSource, batches
from flava.inference.zero_shot import Classes, class_embeddings, class_probabilities

EMBEDDING_FORMATS = (".parquet", ".npy")
TABLE_FORMATS = (".csv", ".parquet", ".jsonl")
BATCH_SIZE = 128
METRIC = {InputKind.IMAGES: "cosine", InputKind.TEXTS: "cosine", InputKind.PAIRS: "none"}
"""How embeddings may be compared. Those of pairs were not trained to be compared."""
PREVIEW_ROWS = 20
"""How many rows are computed without an output file."""


@dataclass(frozen=True, kw_only=True)
class BatchResults:
    """The results of a batch: the columns of each row and, if it was embedded, its vector."""

    columns: Sequence[ResultColumns]
    vectors: Float32[np.ndarray, "rows width"] | None = None


ComputeBatch = Callable[[InputBatch], BatchResults]


@dataclass(frozen=True, kw_only=True)
class BulkResult:
    """What a command wrote; ``str`` gives the message for the user."""

    output: Path
    rows: int
    """Rows of the output."""
    resumed_rows: int
    """How many of them an earlier process had computed."""
    skip_counts: Mapping[str, int]
    """Reason -> number of rows that were skipped for it."""
    skipped_file: Path | None
    """The file that names each skipped row; None if there are none."""

    def __str__(self) -> str:
        earlier = f", {self.resumed_rows:,} of them done earlier" if self.resumed_rows else ""
        message = f"{self.output}: {self.rows:,} rows{earlier}"
        if self.skipped_file:
            skipped = _describe_skipped(self.skip_counts)
            message += f"\n{skipped}; each is named in {self.skipped_file}"
        return message


def _describe_skipped(skip_counts: Mapping[str, int]) -> str:
    """How many rows were skipped, and why, the most frequent reason first."""
    ordered = sorted(skip_counts.items(), key=lambda each: (-each[1], each[0]))
    return f"skipped {sum(skip_counts.values()):,}: " + ", ".join(
        f"{reason} ({count:,})" for reason, count in ordered
    )


def _compute_rows(
    source: InputSource,
    compute: ComputeBatch,
    output: Path,
    *,
    about: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
    batch_size: int,
) -> BulkResult:
    """Compute every row of the source and write the output.

    A row that cannot be used is skipped, and named in a file beside the output. A process that is
    killed loses about a second of work: the same call goes on from there and writes the same
    output.

    Args:
        about: what has to be equal for a call to continue an output; the source is added.
        notes: further facts that are written together with ``about`` into Parquet and beside
            .npy.

    Raises:
        ValueError: the output was begun with another ``about``, or no row could be used.
        OSError: a file cannot be written; the rows done so far are kept.
        KeyboardInterrupt: with a message that says how to go on.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}: use at least 1")
    partial = PartialOutput(output, {**about, "input": source.fingerprint}, notes)
    resumed_rows = partial.journal.rows
    try:
        with row_progress(partial) as show:
            for batch in batches(source, batch_size, partial.journal.consumed):
                results = compute(batch) if batch.rows else BatchResults(columns=())
                _append_finite_rows(partial, batch, results)
                show(batch.done)
        partial.commit()
    except KeyboardInterrupt:
        partial.commit()
        raise KeyboardInterrupt(
            f"stopped after {partial.journal.rows:,} rows: run the same command to go on"
        ) from None
    finally:
        partial.close()
    return finish_output(partial, resumed_rows)


def _append_finite_rows(partial: PartialOutput, batch: InputBatch, results: BatchResults) -> None:
    """Append the results of a batch; rows whose vectors are not finite are skipped."""
    columns, vectors, skipped = results.columns, results.vectors, list(batch.skipped)
    if vectors is not None:
        finite = np.isfinite(vectors).all(axis=1)
        skipped += [_not_finite(columns[int(index)]) for index in np.flatnonzero(~finite)]
        columns = [columns[int(index)] for index in np.flatnonzero(finite)]
        vectors = vectors[finite]
    partial.append(columns, vectors, skipped, batch.consumed)


def finish_output(partial: PartialOutput, resumed_rows: int) -> BulkResult:
    """Write the output from its rows, and delete the folder that held them.

    Raises:
        ValueError: no row could be used.
        OSError: the output cannot be written; the rows are kept.
    """
    journal = partial.journal
    if not journal.rows:
        raise ValueError(
            f"no row could be used, and {partial.output} is not written. "
            f"{_describe_skipped(journal.reasons)}; each is named in "
            f"{partial.folder / 'skipped.jsonl'}"
        )
    skipped_file = write_output(partial)
    partial.remove()
    return BulkResult(
        output=partial.output,
        rows=journal.rows,
        resumed_rows=resumed_rows,
        skip_counts=journal.reasons,
        skipped_file=skipped_file,
    )


@contextmanager
def row_progress(partial: PartialOutput) -> Iterator[Callable[[float], None]]:
    """Shows rows, rate and time left; yields a function to call with the share done (0 to 1).

    The rate is counted from the end of the first batch, which is slower than the others; rows of an
    earlier process do not count.
    """
    journal = partial.journal
    with share_progress(partial.output.name) as show:

        def show_share(done: float) -> None:
            skipped = sum(journal.reasons.values())
            show(done, journal.rows, f", {skipped:,} skipped" if skipped else "")

        yield show_share


def _not_finite(columns: ResultColumns) -> SkippedSample:
    key = str(columns.get("path", columns.get("text", "")))
    reason = "embedding is not finite"
    return SkippedSample(
        shard="", key=key, reason=reason, message=f"{reason}: use --precision fp32"
    )


def embed_rows(
    pretrained: Pretrained,
    source: InputSource,
    output: Path,
    *,
    model: str,
    batch_size: int = BATCH_SIZE,
) -> BulkResult:
    """Write the embedding of every row to .parquet, or to .npy with the rows' names beside it.

    Embeddings of images and texts are unit vectors of the contrastive space, those of pairs the
    multimodal [CLS] states. ``model`` is where the model was loaded from; it is written into the
    output.

    Raises:
        ValueError, FileExistsError: the output has another format, or exists; and as
            `_compute_rows`.
    """
    check_output(output, EMBEDDING_FORMATS)
    about = _resume_key("embed", pretrained) | {"kind": source.kind.value}
    return _compute_rows(
        source,
        _embedder(pretrained, source.kind),
        output,
        about=about,
        notes={"source": model, "root": str(source.root.resolve()), "metric": METRIC[source.kind]},
        batch_size=batch_size,
    )


def _resume_key(command: str, pretrained: Pretrained) -> dict[str, str]:
    """What has to be equal for a command to continue an unfinished output."""
    return {
        "command": command,
        "model": pretrained.identity,
        "precision": pretrained.precision.value,
    }


def _embedder(pretrained: Pretrained, kind: InputKind) -> ComputeBatch:
    """The function that embeds a batch of rows of this kind."""

    def compute(batch: InputBatch) -> BatchResults:
        if kind is InputKind.IMAGES:
            vectors = pretrained.encode_image(batch.images)
        elif kind is InputKind.TEXTS:
            vectors = pretrained.encode_text(batch.texts)
        else:
            vectors = pretrained.encode_pair(batch.images, batch.texts)
        return BatchResults(columns=[row.columns() for row in batch.rows], vectors=vectors.numpy())

    return compute


def classify_rows(
    pretrained: Pretrained,
    source: InputSource,
    output: Path,
    classes: Classes,
    *,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
) -> BulkResult:
    """Write the most probable classes of every image, zero-shot, to .csv, .parquet or .jsonl.

    The columns are path, class_1, probability_1, class_2, and so on up to ``top``.

    Raises:
        ValueError, FileExistsError: the output has another format, or exists; and as
            `_compute_rows`.
    """
    check_output(output, TABLE_FORMATS)
    about = _resume_key("classify", pretrained) | {"classes": str(classes), "top": str(top)}
    compute = classifier(pretrained, classes, top)
    return _compute_rows(source, compute, output, about=about, batch_size=batch_size)


def classifier(pretrained: Pretrained, classes: Classes, top: int) -> ComputeBatch:
    """The function that classifies a batch of images."""
    named = [(name,) for name in classes.names]
    vectors = class_embeddings(pretrained.encode_text, named, classes.templates)
    scale = math.exp(pretrained.logit_scale)

    def compute(batch: InputBatch) -> BatchResults:
        probabilities = class_probabilities(pretrained.encode_image(batch.images), vectors, scale)
        best = probabilities.topk(min(top, len(classes.names)), dim=1)
        return BatchResults(
            columns=[
                {**row.columns(), **_ranked(classes.names, values, indices)}
                for row, values, indices in zip(
                    batch.rows, best.values.tolist(), best.indices.tolist(), strict=True
                )
            ]
        )

    return compute


def _ranked(names: Sequence[str], probabilities: list[float], indices: list[int]) -> ResultColumns:
    columns: dict[str, str | float] = {}
    for place, (probability, index) in enumerate(zip(probabilities, indices, strict=True), 1):
        columns |= {f"class_{place}": names[index], f"probability_{place}": probability}
    return columns


def match_rows(
    pretrained: Pretrained, source: InputSource, output: Path, *, batch_size: int = BATCH_SIZE
) -> BulkResult:
    """Write how well each pair's image and text match, to .csv, .parquet or .jsonl.

    The columns are path, text, cosine (in the contrastive space) and probability (of the matching
    head, which CLIP does not have).

    Raises:
        ValueError, FileExistsError: the output has another format, or exists; and as
            `_compute_rows`.
    """
    check_output(output, TABLE_FORMATS)
    about = _resume_key("match", pretrained)
    return _compute_rows(source, matcher(pretrained), output, about=about, batch_size=batch_size)


def matcher(pretrained: Pretrained) -> ComputeBatch:
    """The function that computes the match of a batch of pairs."""

    def compute(batch: InputBatch) -> BatchResults:
        scores = pretrained.match(batch.images, batch.texts)
        score_columns = {"cosine": scores.cosine.tolist()}
        if scores.probability is not None:
            score_columns["probability"] = scores.probability.tolist()
        return BatchResults(
            columns=[
                {**row.columns(), **{name: values[i] for name, values in score_columns.items()}}
                for i, row in enumerate(batch.rows)
            ]
        )

    return compute


def preview_rows(
    source: InputSource, compute: ComputeBatch
) -> tuple[list[ResultColumns], list[SkippedSample]]:
    """The results of the first rows, and the rows that were skipped before them.

    Raises:
        ValueError: no row could be used.
    """
    skipped: list[SkippedSample] = []
    for batch in batches(source, PREVIEW_ROWS):
        skipped += batch.skipped
        if batch.rows:
            return list(compute(batch).columns), skipped
    raise ValueError("no row could be used: " + "; ".join(map(str, skipped[:3])))

"""Any number of rows through a model into one table, in bounded memory and resumable."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flava.data.errors import SkippedSample
from flava.inference.output_files import ResultColumns, Unfinished, check_output, write_output
from flava.inference.pretrained import Pretrained
from flava.inference.row_sources import InputBatch, InputKind, InputSource, batches
from flava.inference.zero_shot import Classes, class_embeddings, class_probabilities

SHARES = 1_000_000
"""Steps of the progress bar."""
SECONDS_BETWEEN_LINES = 15
"""Where there is no terminal to draw a bar on, a line is printed this often."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a batch's rows became: the columns of each, and its vector if it has one."""

    columns: Sequence[ResultColumns]
    vectors: Float32[np.ndarray, "rows width"] | None = None


Compute = Callable[[InputBatch], Computed]


@dataclass(frozen=True, kw_only=True)
class BulkOutcome:
    """What a command did; ``str`` says it."""

    output: Path
    rows: int
    went_on_from: int
    """Rows that an earlier process had done."""
    reasons: Mapping[str, int]
    """Why rows were skipped, and how many for each reason."""
    listed: Path | None
    """The file that names each skipped row."""

    def __str__(self) -> str:
        earlier = f", {self.went_on_from:,} of them done earlier" if self.went_on_from else ""
        said = f"{self.output}: {self.rows:,} rows{earlier}"
        if self.listed:
            said += f"\n{told(self.reasons)}; each is named in {self.listed}"
        return said


def told(reasons: Mapping[str, int]) -> str:
    """How many rows were skipped, and why, the commonest reason first."""
    counts = sorted(reasons.items(), key=lambda each: (-each[1], each[0]))
    return f"skipped {sum(reasons.values()):,}: " + ", ".join(
        f"{reason} ({count:,})" for reason, count in counts
    )


def stream(
    source: InputSource,
    compute: Compute,
    output: Path,
    *,
    about: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
    batch_size: int,
) -> BulkOutcome:
    """Compute every row of the source and write the output.

    A row that cannot be used is skipped and listed beside the output. A process that is killed
    loses a second's work or so: the same call goes on from there, and the output is the same.
    ``about`` is what must be the same then; the source is added to it. ``notes`` are written into
    Parquet and beside .npy together with it.

    Raises:
        ValueError: the output was begun with something else, or no row could be used.
        OSError: something cannot be written; what is done stays.
        KeyboardInterrupt: with what to do to go on.
    """
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}: use at least 1")
    unfinished = Unfinished(output, {**about, "input": source.fingerprint}, notes)
    earlier = unfinished.journal.rows
    try:
        with progress(unfinished) as show:
            for batch in batches(source, batch_size, unfinished.journal.consumed):
                computed = compute(batch) if batch.rows else Computed(columns=())
                keep(unfinished, batch, computed)
                show(batch.done)
        unfinished.commit()
    except KeyboardInterrupt:
        unfinished.commit()
        raise KeyboardInterrupt(
            f"stopped after {unfinished.journal.rows:,} rows: run the same command to go on"
        ) from None
    finally:
        unfinished.close()
    return finish(unfinished, earlier)


def keep(unfinished: Unfinished, batch: InputBatch, computed: Computed) -> None:
    """Append a batch, without the rows that came out as no numbers."""
    columns, vectors, skipped = computed.columns, computed.vectors, list(batch.skipped)
    if vectors is not None:
        finite = np.isfinite(vectors).all(axis=1)
        skipped += [_not_finite(columns[int(index)]) for index in np.flatnonzero(~finite)]
        columns = [columns[int(index)] for index in np.flatnonzero(finite)]
        vectors = vectors[finite]
    unfinished.append(columns, vectors, skipped, batch.consumed)


def finish(unfinished: Unfinished, earlier: int) -> BulkOutcome:
    """The whole output, written from the rows; then these are not needed any more."""
    journal = unfinished.journal
    if not journal.rows:
        raise ValueError(
            f"no row could be used, and {unfinished.output} is not written. {told(journal.reasons)}"
            f"; each is named in {unfinished.folder / 'skipped.jsonl'}"
        )
    listed = write_output(unfinished)
    unfinished.remove()
    return BulkOutcome(
        output=unfinished.output,
        rows=journal.rows,
        went_on_from=earlier,
        reasons=journal.reasons,
        listed=listed,
    )


@contextmanager
def progress(unfinished: Unfinished) -> Iterator[Callable[[float], None]]:
    """Shows rows, rate and time left; it is called with the share done."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(unfinished.output.name),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=SHARES, figures="")
    journal = unfinished.journal
    # Where the rate is counted from: after what was done earlier, and after the first batch, which
    # is slower than the others.
    start: tuple[float, float, int] | None = None
    said = time.monotonic()

    def show(done: float) -> None:
        nonlocal start, said
        now = time.monotonic()
        if start is None:
            start = now, done, journal.rows
            bar.reset(task, completed=round(done * SHARES))
        seconds = max(now - start[0], 1e-9)
        figures = f"{journal.rows:,} rows, {(journal.rows - start[2]) / seconds:,.0f} rows/s"
        if count := sum(journal.reasons.values()):
            figures += f", {count:,} skipped"
        bar.update(task, completed=round(done * SHARES), figures=figures)
        if not console.is_terminal and now - said > SECONDS_BETWEEN_LINES:
            said = now
            left = seconds * (1 - done) / max(done - start[1], 1e-9)
            console.print(f"{done:.0%}, about {left:.0f} s left, {figures}", highlight=False)

    with bar:
        yield show


def _not_finite(columns: ResultColumns) -> SkippedSample:
    key = str(columns.get("path", columns.get("text", "")))
    reason = "embedding is not finite"
    return SkippedSample(
        shard="", key=key, reason=reason, message=f"{reason}: use --precision fp32"
    )


EMBEDDING_FORMATS = (".parquet", ".npy")
TABLE_FORMATS = (".csv", ".parquet", ".jsonl")
BATCH_SIZE = 128
METRIC = {InputKind.IMAGES: "cosine", InputKind.TEXTS: "cosine", InputKind.PAIRS: "none"}
"""How embeddings are compared: states of pairs were not trained to be."""
SHOWN_ROWS = 20
"""Rows that are computed when there is no output to write all of them to."""


def embed_rows(
    pretrained: Pretrained,
    source: InputSource,
    output: Path,
    *,
    model: str,
    batch_size: int = BATCH_SIZE,
) -> BulkOutcome:
    """The embedding of every row, to .parquet, or to .npy with the rows' names beside it.

    Images and texts are unit vectors of the contrastive space, pairs the multimodal [CLS] state.
    ``model`` is where it was loaded from, which is written down with the embeddings.

    Raises:
        ValueError, FileExistsError: the output's name; and as ``stream``.
    """
    check_output(output, EMBEDDING_FORMATS)
    about = begun("embed", pretrained) | {"kind": source.kind.value}
    return stream(
        source,
        embedder(pretrained, source.kind),
        output,
        about=about,
        notes={"source": model, "root": str(source.root.resolve()), "metric": METRIC[source.kind]},
        batch_size=batch_size,
    )


def begun(command: str, pretrained: Pretrained) -> dict[str, str]:
    """What must be the same for a command to go on with what was begun."""
    return {
        "command": command,
        "model": pretrained.identity,
        "precision": pretrained.precision.value,
    }


def embedder(pretrained: Pretrained, kind: InputKind) -> Compute:
    """The function that embeds a batch of that kind."""

    def compute(batch: InputBatch) -> Computed:
        if kind is InputKind.IMAGES:
            vectors = pretrained.encode_image(batch.images)
        elif kind is InputKind.TEXTS:
            vectors = pretrained.encode_text(batch.texts)
        else:
            vectors = pretrained.encode_pair(batch.images, batch.texts)
        return Computed(columns=[row.columns() for row in batch.rows], vectors=vectors.numpy())

    return compute


def classify_rows(
    pretrained: Pretrained,
    source: InputSource,
    output: Path,
    classes: Classes,
    *,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
) -> BulkOutcome:
    """The likeliest classes of every image, zero-shot, to .csv, .parquet or .jsonl.

    Columns are path, class_1, probability_1, class_2, and so on up to ``top``.

    Raises:
        ValueError, FileExistsError: the output's name; and as ``stream``.
    """
    check_output(output, TABLE_FORMATS)
    about = begun("classify", pretrained) | {"classes": str(classes), "top": str(top)}
    compute = classifier(pretrained, classes, top)
    return stream(source, compute, output, about=about, batch_size=batch_size)


def classifier(pretrained: Pretrained, classes: Classes, top: int) -> Compute:
    """The function that classifies a batch of images."""
    named = [(name,) for name in classes.names]
    vectors = class_embeddings(pretrained.encode_text, named, classes.templates)
    scale = math.exp(pretrained.logit_scale)

    def compute(batch: InputBatch) -> Computed:
        probabilities = class_probabilities(pretrained.encode_image(batch.images), vectors, scale)
        best = probabilities.topk(min(top, len(classes.names)), dim=1)
        return Computed(
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
) -> BulkOutcome:
    """How well each pair's image and text match, to .csv, .parquet or .jsonl.

    Columns are path, text, cosine (of the contrastive space) and probability (of the matching
    head; CLIP has none).

    Raises:
        ValueError, FileExistsError: the output's name; and as ``stream``.
    """
    check_output(output, TABLE_FORMATS)
    about = begun("match", pretrained)
    return stream(source, matcher(pretrained), output, about=about, batch_size=batch_size)


def matcher(pretrained: Pretrained) -> Compute:
    """The function that scores a batch of pairs."""

    def compute(batch: InputBatch) -> Computed:
        scores = pretrained.match(batch.images, batch.texts)
        measured = {"cosine": scores.cosine.tolist()}
        if scores.probability is not None:
            measured["probability"] = scores.probability.tolist()
        return Computed(
            columns=[
                {**row.columns(), **{name: values[i] for name, values in measured.items()}}
                for i, row in enumerate(batch.rows)
            ]
        )

    return compute


def first_rows(
    source: InputSource, compute: Compute
) -> tuple[list[ResultColumns], list[SkippedSample]]:
    """What the first rows become, and what was skipped on the way: for a look.

    Raises:
        ValueError: there is no row.
    """
    skipped: list[SkippedSample] = []
    for batch in batches(source, SHOWN_ROWS):
        skipped += batch.skipped
        if batch.rows:
            return list(compute(batch).columns), skipped
    raise ValueError("no row could be used: " + "; ".join(map(str, skipped[:3])))

"""Many rows through a model: their embeddings, their classes, or how well image and text match."""

import math
from collections.abc import Sequence
from pathlib import Path

from flava.data.errors import Skipped
from flava.evaluation.classes import ImageClass
from flava.evaluation.zero_shot import class_embeddings
from flava.inference.batches import Batch, batches
from flava.inference.class_names import Classes
from flava.inference.outputs import check_output
from flava.inference.pretrained import Pretrained
from flava.inference.sources import Kind, Source
from flava.inference.streaming import Compute, Computed, Outcome, stream
from flava.inference.unfinished import Columns

EMBEDDING_FORMATS = (".parquet", ".npy")
TABLE_FORMATS = (".csv", ".parquet", ".jsonl")
BATCH_SIZE = 128
METRIC = {Kind.IMAGES: "cosine", Kind.TEXTS: "cosine", Kind.PAIRS: "none"}
"""How embeddings are compared: states of pairs were not trained to be."""
SHOWN_ROWS = 20
"""Rows that are computed when there is no output to write all of them to."""


def embed_rows(
    pretrained: Pretrained,
    source: Source,
    output: Path,
    *,
    model: str,
    batch_size: int = BATCH_SIZE,
) -> Outcome:
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


def embedder(pretrained: Pretrained, kind: Kind) -> Compute:
    """The function that embeds a batch of that kind."""

    def compute(batch: Batch) -> Computed:
        if kind is Kind.IMAGES:
            vectors = pretrained.encode_image(batch.images)
        elif kind is Kind.TEXTS:
            vectors = pretrained.encode_text(batch.texts)
        else:
            vectors = pretrained.encode_pair(batch.images, batch.texts)
        return Computed(columns=[row.columns() for row in batch.rows], vectors=vectors.numpy())

    return compute


def classify_rows(
    pretrained: Pretrained,
    source: Source,
    output: Path,
    classes: Classes,
    *,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
) -> Outcome:
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
    named = [ImageClass((name,), ()) for name in classes.names]
    vectors = class_embeddings(pretrained.encode_text, named, classes.templates)
    scale = math.exp(pretrained.logit_scale)

    def compute(batch: Batch) -> Computed:
        logits = scale * pretrained.encode_image(batch.images) @ vectors.T
        best = logits.softmax(dim=1).topk(min(top, len(classes.names)), dim=1)
        return Computed(
            columns=[
                {**row.columns(), **_ranked(classes.names, probabilities, indices)}
                for row, probabilities, indices in zip(
                    batch.rows, best.values.tolist(), best.indices.tolist(), strict=True
                )
            ]
        )

    return compute


def _ranked(names: Sequence[str], probabilities: list[float], indices: list[int]) -> Columns:
    columns: dict[str, str | float] = {}
    for place, (probability, index) in enumerate(zip(probabilities, indices, strict=True), 1):
        columns |= {f"class_{place}": names[index], f"probability_{place}": probability}
    return columns


def match_rows(
    pretrained: Pretrained, source: Source, output: Path, *, batch_size: int = BATCH_SIZE
) -> Outcome:
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

    def compute(batch: Batch) -> Computed:
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


def first_rows(source: Source, compute: Compute) -> tuple[list[Columns], list[Skipped]]:
    """What the first rows become, and what was skipped on the way: for a look.

    Raises:
        ValueError: there is no row.
    """
    skipped: list[Skipped] = []
    for batch in batches(source, SHOWN_ROWS):
        skipped += batch.skipped
        if batch.rows:
            return list(compute(batch).columns), skipped
    raise ValueError("no row could be used: " + "; ".join(map(str, skipped[:3])))

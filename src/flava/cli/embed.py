"""`flava embed`, `flava classify` and `flava match`: many rows through a model, into one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from flava.data.errors import SkippedSample
from flava.inference.bulk import (
    BATCH_SIZE,
    EMBEDDING_FORMATS,
    TABLE_FORMATS,
    classifier,
    classify_rows,
    embed_rows,
    first_rows,
    match_rows,
    matcher,
)
from flava.inference.int8 import InferencePrecision
from flava.inference.load import load
from flava.inference.output_files import ResultColumns, check_output
from flava.inference.row_sources import InputKind, InputSource, open_source
from flava.inference.zero_shot import read_classes

Computed = Annotated[InferencePrecision, tyro.conf.EnumChoicesFromValues]
SHOWN_SKIPPED = 3


def embed(
    model: str,
    output: Path,
    images: str | None = None,
    texts: str | None = None,
    pairs: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: Computed = InferencePrecision.FP32,
) -> None:
    """Write the embedding of every image, text or pair to a file.

    Files that cannot be used are skipped, and named in NAME.skipped.jsonl beside the output. A
    command that was interrupted, or killed, goes on where it was when it is run again. Images of a
    folder come sorted by path; rows of anything else stay in their order.

    Args:
        model: Where the model comes from: anything that flava.load takes.
        output: The file to write: .parquet with the columns path or text, and embedding; or .npy,
            with the names in NAME.rows.jsonl beside it.
        images: A folder of images, tars ('data/*.tar'), or a table (CSV, TSV, JSON lines, Parquet)
            with a column image, path or file. Embeddings are unit vectors of the contrastive space.
        texts: Plain text with a text a line, tars, or a table with a column text or caption; in the
            same space.
        pairs: A table with both columns, or tars. Embeddings are the multimodal [CLS] states.
        batch_size: Rows that are computed at once.
        device: As torch names it; auto takes a GPU if there is one.
        precision: What matrix products are computed in.
    """
    source = one_source(images, texts, pairs)
    check_output(output, EMBEDDING_FORMATS)
    pretrained = load(model, device=device, precision=precision)
    print(embed_rows(pretrained, source, output, model=model, batch_size=batch_size))


def classify(
    model: str,
    images: str,
    classes: str,
    output: Path | None = None,
    templates: Path | None = None,
    top: int = 5,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: Computed = InferencePrecision.FP32,
) -> None:
    """Name the likeliest classes of every image, without training (zero-shot).

    Skips and goes on as flava embed does.

    Args:
        model: Where the model comes from: anything that flava.load takes.
        images: A folder of images, tars ('data/*.tar'), or a table (CSV, TSV, JSON lines, Parquet)
            with a column image, path or file.
        classes: The classes, as in "cat,dog", or a file with one a line.
        output: The file to write: .csv, .parquet or .jsonl. Without it, the first rows are shown.
        templates: A file with a prompt a line, and {} in it where the class goes.
        top: How many classes are named for each image.
        batch_size: Images that are computed at once.
        device: As torch names it; auto takes a GPU if there is one.
        precision: What matrix products are computed in.
    """
    if top < 1:
        raise ValueError(f"--top is {top}: use at least 1")
    source, named = open_source(InputKind.IMAGES, images), read_classes(classes, templates)
    if output is not None:
        check_output(output, TABLE_FORMATS)
    pretrained = load(model, device=device, precision=precision)
    if output is None:
        show(*first_rows(source, classifier(pretrained, named, top)))
    else:
        print(classify_rows(pretrained, source, output, named, top=top, batch_size=batch_size))


def match(
    model: str,
    pairs: str,
    output: Path | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: Computed = InferencePrecision.FP32,
) -> None:
    """Tell how well each image and its text match.

    Skips and goes on as flava embed does.

    Args:
        model: Where the model comes from: anything that flava.load takes.
        pairs: A table (CSV, TSV, JSON lines, Parquet) with a column image, path or file and one
            named text or caption, or tars. Paths start from the table's folder.
        output: The file to write: .csv, .parquet or .jsonl, with the cosine in the contrastive
            space and the probability by the matching head. Without it, the first rows are shown.
        batch_size: Pairs that are computed at once.
        device: As torch names it; auto takes a GPU if there is one.
        precision: What matrix products are computed in.
    """
    source = open_source(InputKind.PAIRS, pairs)
    if output is not None:
        check_output(output, TABLE_FORMATS)
    pretrained = load(model, device=device, precision=precision)
    if output is None:
        show(*first_rows(source, matcher(pretrained)))
    else:
        print(match_rows(pretrained, source, output, batch_size=batch_size))


def one_source(
    images: str | None = None, texts: str | None = None, pairs: str | None = None
) -> InputSource:
    """The source that is given.

    Raises:
        ValueError: none is given, or more than one; or as ``open_source``.
    """
    named = {InputKind.IMAGES: images, InputKind.TEXTS: texts, InputKind.PAIRS: pairs}
    given = [(kind, name) for kind, name in named.items() if name is not None]
    if len(given) != 1:
        said = " and ".join(f"--{kind.value}" for kind, _ in given) or "none"
        raise ValueError(f"give one of --images, --texts and --pairs, not {said}")
    return open_source(*given[0])


def show(rows: Sequence[ResultColumns], skipped: Sequence[SkippedSample]) -> None:
    """The first rows as a table."""
    table = Table(title=f"the first {len(rows)} rows; --output FILE computes all", title_style="")
    for name in _cells(rows[0]):
        justify = "right" if isinstance(rows[0][name], float) else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row).values())
    console = Console()
    console.print(table)
    for each in skipped[:SHOWN_SKIPPED]:
        console.print(f"skipped {each}", markup=False, highlight=False)


def _cells(row: ResultColumns) -> dict[str, str]:
    """What is shown of a row: a class and its probability in one cell, so that a line holds all."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        of_class = name.replace("probability_", "class_")
        if name != of_class and of_class in cells:
            cells[of_class] += f" {value:.3f}"
        else:
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            cells[name] = text.replace("[", r"\[")
    return cells

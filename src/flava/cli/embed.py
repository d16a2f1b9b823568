"""`flava embed`, `flava classify` and `flava match`: apply a model to many images, texts or
pairs."""

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
    match_rows,
    matcher,
    preview_rows,
)
from flava.inference.int8 import InferencePrecision
from flava.inference.load import load
from flava.inference.output_files import ResultColumns, check_output
from flava.inference.row_sources import InputKind, InputSource, open_source
from flava.inference.zero_shot import read_classes

PrecisionOption = Annotated[InferencePrecision, tyro.conf.EnumChoicesFromValues]
SHOWN_SKIPPED = 3


def embed(
    model: str,
    output: Path,
    images: str | None = None,
    texts: str | None = None,
    pairs: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: PrecisionOption = InferencePrecision.FP32,
) -> None:
    """Write the embedding of every image, text or pair to a file.

    Rows that cannot be used are skipped, and named in NAME.skipped.jsonl beside the output. If the
    command is interrupted or killed, run it again: it continues where it stopped. Images of a
    folder are sorted by path; all other rows keep their order.

    Args:
        model: Where the model comes from: an id on the Hugging Face hub, a folder (also a run's) or
            a file of weights.
        output: The file to write: .parquet, with the columns path or text and embedding; or .npy,
            with the names of the rows in NAME.rows.jsonl beside it.
        images: A folder of images, tars ('data/*.tar'), or a table (CSV, TSV, JSON lines, Parquet)
            with a column image, path or file. Embeddings are unit vectors of the contrastive space.
        texts: A file with one text per line, tars, or a table with a column text, caption,
            captions, content or maintext. Embeddings are unit vectors of the same space.
        pairs: A table with a column for images and one for texts, as above, or tars. Embeddings are
            the multimodal [CLS] states.
        batch_size: Number of rows in a batch.
        device: A device of PyTorch, such as cpu or cuda:0. "auto" uses a GPU if there is one.
        precision: Number format of matrix products. int8 is for CPUs only.
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
    precision: PrecisionOption = InferencePrecision.FP32,
) -> None:
    """Classify images into classes that are given by name, without training (zero-shot).

    Rows that cannot be used are skipped, and named in NAME.skipped.jsonl beside the output. If the
    command is interrupted or killed, run it again: it continues where it stopped.

    Args:
        model: Where the model comes from: an id on the Hugging Face hub, a folder (also a run's) or
            a file of weights.
        images: A folder of images, tars ('data/*.tar'), or a table (CSV, TSV, JSON lines, Parquet)
            with a column image, path or file.
        classes: The names of the classes, such as "cat,dog", or a file with one per line.
        output: The file to write: .csv, .parquet or .jsonl. Without it, the first rows are shown.
        templates: A file with one prompt per line, with {} in place of the class.
        top: Number of classes to give for each image, most probable first.
        batch_size: Number of images in a batch.
        device: A device of PyTorch, such as cpu or cuda:0. "auto" uses a GPU if there is one.
        precision: Number format of matrix products. int8 is for CPUs only.
    """
    if top < 1:
        raise ValueError(f"--top is {top}: use at least 1")
    source, named = open_source(InputKind.IMAGES, images), read_classes(classes, templates)
    if output is not None:
        check_output(output, TABLE_FORMATS)
    pretrained = load(model, device=device, precision=precision)
    if output is None:
        _show(*preview_rows(source, classifier(pretrained, named, top)))
    else:
        print(classify_rows(pretrained, source, output, named, top=top, batch_size=batch_size))


def match(
    model: str,
    pairs: str,
    output: Path | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: PrecisionOption = InferencePrecision.FP32,
) -> None:
    """Compute how well each image and its text match.

    Rows that cannot be used are skipped, and named in NAME.skipped.jsonl beside the output. If the
    command is interrupted or killed, run it again: it continues where it stopped.

    Args:
        model: Where the model comes from: an id on the Hugging Face hub, a folder (also a run's) or
            a file of weights.
        pairs: A table (CSV, TSV, JSON lines, Parquet) with a column image, path or file and a
            column text, caption, captions, content or maintext; or tars. Paths are relative to the
            table's folder.
        output: The file to write: .csv, .parquet or .jsonl, with the cosine in the contrastive
            space and the probability of the matching head. Without it, the first rows are shown.
        batch_size: Number of pairs in a batch.
        device: A device of PyTorch, such as cpu or cuda:0. "auto" uses a GPU if there is one.
        precision: Number format of matrix products. int8 is for CPUs only.
    """
    source = open_source(InputKind.PAIRS, pairs)
    if output is not None:
        check_output(output, TABLE_FORMATS)
    pretrained = load(model, device=device, precision=precision)
    if output is None:
        _show(*preview_rows(source, matcher(pretrained)))
    else:
        print(match_rows(pretrained, source, output, batch_size=batch_size))


def one_source(
    images: str | None = None, texts: str | None = None, pairs: str | None = None
) -> InputSource:
    """The one input that is given.

    Raises:
        ValueError: none or several are given; or as `open_source`.
    """
    named = {InputKind.IMAGES: images, InputKind.TEXTS: texts, InputKind.PAIRS: pairs}
    given = [(kind, name) for kind, name in named.items() if name is not None]
    if len(given) != 1:
        flags = " and ".join(f"--{kind.value}" for kind, _ in given) or "none"
        raise ValueError(f"give one of --images, --texts and --pairs, not {flags}")
    return open_source(*given[0])


def _show(rows: Sequence[ResultColumns], skipped: Sequence[SkippedSample]) -> None:
    """Print the first rows as a table, and the first rows that were skipped."""
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
    """The cells of a row. A class and its probability share one, so that a row fits on a line."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        of_class = name.replace("probability_", "class_")
        if name != of_class and of_class in cells:
            cells[of_class] += f" {value:.3f}"
        else:
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            cells[name] = text.replace("[", r"\[")
    return cells

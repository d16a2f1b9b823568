"""What a model makes of one's own rows: features for a probe, probabilities of a classifier."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from flava.batch import to_device
from flava.data.clip_tokenizer import ClipTokenizer
from flava.data.errors import Skipped
from flava.data.labelled import Row
from flava.data.labelled_loader import Part, in_order
from flava.data.readers import ImageReader, PairReader, Reader, TextReader
from flava.data.tokenizer import Tokenizer
from flava.data.transforms import ImageTransformConfig
from flava.evaluation.subject import evaluating
from flava.model import ClipTextConfig, FeaturesConfig, ImageConfig, TextConfig
from flava.precision import Precision

BATCH_SIZE = 64
"""Rows that are computed at once; changes no figure."""

TEXT_MAX_LENGTH, PAIR_MAX_LENGTH = 512, 77
"""Longest texts in tokens, alone and in pairs: those of pretraining."""

Item = TypeVar("Item")

CROP_SCALE = ImageTransformConfig().crop_scale


def reader_of(
    encoder: FeaturesConfig,
    crop_scale: tuple[float, float] = CROP_SCALE,
    *,
    upright: bool = True,
) -> Reader[Any]:
    """How rows are read for encoders of that geometry; ``crop_scale`` is for training alone.

    ``upright`` is whether images are turned as their EXIF says.
    """
    match encoder:
        case ImageConfig():
            return ImageReader(size=encoder.image_size, crop_scale=crop_scale, upright=upright)
        case TextConfig():
            return text_reader(encoder, TEXT_MAX_LENGTH)
    return PairReader(
        image=ImageReader(size=encoder.image.image_size, crop_scale=crop_scale, upright=upright),
        text=text_reader(encoder.text, PAIR_MAX_LENGTH),
    )


def text_reader(encoder: TextConfig, max_length: int) -> TextReader:
    """How texts are read by FLAVA's text encoder, or by CLIP's."""
    tokenizer = ClipTokenizer() if isinstance(encoder, ClipTextConfig) else Tokenizer()
    return TextReader(tokenizer=tokenizer, max_length=min(max_length, encoder.max_length))


def vocabulary_misfit(encoder: FeaturesConfig) -> list[str]:
    """Why texts cannot be read by encoders of that geometry: a line, or none."""
    if isinstance(encoder, ImageConfig):
        return []
    text = encoder if isinstance(encoder, TextConfig) else encoder.text
    whose, tokenizer = "BERT's", text_reader(text, TEXT_MAX_LENGTH).tokenizer
    if isinstance(tokenizer, ClipTokenizer):
        whose = "CLIP's"
    if text.vocabulary_size >= tokenizer.size:
        return []
    return [
        f"its vocabulary has {text.vocabulary_size} entries, fewer than the tokeniser's "
        f"{tokenizer.size}: give one that was trained with {whose} vocabulary"
    ]


@dataclass(frozen=True)
class Outputs:
    """A row of ``values``, in 32 bits on the CPU, for each of ``rows`` that could be decoded."""

    rows: tuple[Row, ...]
    values: Float[Tensor, "rows width"]
    skipped: tuple[Skipped, ...]


def outputs_of(
    model: nn.Module,
    rows: Sequence[Row],
    reader: Reader,
    precision: Precision,
    *,
    batch_size: int = BATCH_SIZE,
    shown_as: str | None = None,
) -> Outputs:
    """The model's output for every row, in order; with a progress bar if it has a name."""
    device = next(model.parameters()).device
    kept: list[Row] = []
    values: list[Tensor] = []
    skipped: list[Skipped] = []
    with evaluating(model, precision):
        for part in tracked(in_order(rows, reader, batch_size), len(rows), shown_as):
            if part.inputs is not None:
                values.append(model(to_device(part.inputs, device)).float().cpu())
            kept += part.rows
            skipped += part.skipped
    return Outputs(tuple(kept), torch.cat(values) if values else torch.empty(0, 0), tuple(skipped))


def tracked(parts: Iterable[Part], total: int, shown_as: str | None) -> Iterable[Part]:
    """The same parts under a progress bar with rate and time left."""
    return counted(parts, lambda part: len(part.rows) + len(part.skipped), total, shown_as)


def counted(
    items: Iterable[Item], size: Callable[[Item], int], total: int, shown_as: str | None
) -> Iterator[Item]:
    """The same items under a progress bar, which each advances by its size."""
    with progress(shown_as, total) as advance:
        for item in items:
            yield item
            advance(size(item))


@contextmanager
def progress(shown_as: str | None, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left, if it has a name: yields what advances it."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(shown_as or ""),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=shown_as is None or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)

"""Applies a model to every row of labelled data, for classifiers, probes and retrieval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flava.core.batch import Inputs, to_device
from flava.core.progress import counted
from flava.data.errors import SkippedSample
from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import (
    ImageReader,
    PairReader,
    RowReader,
    TextReader,
    read_in_order,
)
from flava.data.tokenizers import ClipTokenizer
from flava.data.transforms import ImageTransformConfig
from flava.inference.features import FeatureExtractor
from flava.inference.processor import default_tokenizer
from flava.models import FeaturesConfig, ImageConfig, TextConfig

TEXT_MAX_LENGTH, PAIR_MAX_LENGTH = 512, 77
"""Longest texts in tokens, alone and in pairs: those of pretraining."""

CROP_SCALE = ImageTransformConfig().crop_scale


def reader_of(
    encoder: FeaturesConfig,
    crop_scale: tuple[float, float] = CROP_SCALE,
    *,
    upright: bool = True,
) -> RowReader[Any]:
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
    return TextReader(
        tokenizer=default_tokenizer(encoder), max_length=min(max_length, encoder.max_length)
    )


def vocabulary_misfit(encoder: FeaturesConfig) -> list[str]:
    """Why texts cannot be read by encoders of that geometry: a line, or none."""
    if isinstance(encoder, ImageConfig):
        return []
    text = encoder if isinstance(encoder, TextConfig) else encoder.text
    tokenizer = default_tokenizer(text)
    if text.vocabulary_size >= tokenizer.size:
        return []
    vocabulary = "CLIP's" if isinstance(tokenizer, ClipTokenizer) else "BERT's"
    return [
        f"its vocabulary has {text.vocabulary_size} entries, fewer than the tokeniser's "
        f"{tokenizer.size}: give one that was trained with {vocabulary} vocabulary"
    ]


@dataclass(frozen=True)
class RowOutputs:
    """A vector of ``values``, in 32 bits on the CPU, for each of ``rows`` that could be decoded."""

    rows: tuple[LabelledRow, ...]
    values: Float[Tensor, "rows width"]
    skipped: tuple[SkippedSample, ...]


def row_outputs(
    extractor: FeatureExtractor,
    rows: Sequence[LabelledRow],
    reader: RowReader,
    compute: Callable[[Inputs], Float[Tensor, "batch width"]] | None = None,
    *,
    title: str | None = None,
) -> RowOutputs:
    """What ``compute`` makes of every row, in order; with a progress bar if it has a title.

    ``compute`` is given batches on the model's device; by default it is the model itself.
    """
    compute_batch = extractor.model if compute is None else compute
    kept: list[LabelledRow] = []
    values: list[Tensor] = []
    skipped: list[SkippedSample] = []
    batches = read_in_order(rows, reader, extractor.batch_size)
    with extractor.computing():
        for batch in counted(
            batches, lambda each: len(each.rows) + len(each.skipped), len(rows), title
        ):
            if batch.inputs is not None:
                outputs = compute_batch(to_device(batch.inputs, extractor.device))
                values.append(outputs.float().cpu())
            kept += batch.rows
            skipped += batch.skipped
    return RowOutputs(
        tuple(kept), torch.cat(values) if values else torch.empty(0, 0), tuple(skipped)
    )

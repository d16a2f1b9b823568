"""Images and texts in the contrastive space of a FLAVA or a CLIP."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from flava.batch import ImageInputs, Inputs, TextInputs
from flava.data.labelled import Row
from flava.data.readers import ImageReader, Pixels, Reader, row_image
from flava.data.views import clip_view
from flava.evaluation.outputs import PAIR_MAX_LENGTH, outputs_of, text_reader
from flava.evaluation.suite.multimodal.mistakes import refuse
from flava.evaluation.suite.task import Settings
from flava.model import Clip, Flava


@dataclass(frozen=True, kw_only=True)
class MiddleReader(ImageReader):
    """The middle of an image, its shorter side resized: what CLIP sees."""

    def read(self, row: Row, rng: np.random.Generator | None) -> Pixels:  # noqa: ARG002
        return clip_view(self.size).levels(row_image(row, upright=self.upright))


def image_reader(model: Flava | Clip) -> ImageReader:
    """How `flava.load` shows images to the model if no file says otherwise: FLAVA sees all of one,
    squared, and CLIP its middle; but they are not turned as their EXIF says."""
    kind = MiddleReader if isinstance(model, Clip) else ImageReader
    return kind(size=model.config.image.image_size, crop_scale=(1.0, 1.0), upright=False)


class ImageEmbedding(nn.Module):
    """Images -> unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, ImageInputs)
        return self.model.encode_image(inputs.pixels)


class TextEmbedding(nn.Module):
    """Texts -> unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Float[Tensor, "batch projection"]:
        assert isinstance(inputs, TextInputs)
        return self.model.encode_text(inputs.ids, inputs.real)


def embed_images(
    model: Flava | Clip, rows: Sequence[Row], settings: Settings
) -> Float[np.ndarray, "images projection"]:
    """Unit vectors; raises ValueError if images cannot be decoded, and names them."""
    return embed(ImageEmbedding(model), rows, image_reader(model), settings, "images")


def embed_texts(
    model: Flava | Clip, rows: Sequence[Row], settings: Settings
) -> Float[np.ndarray, "texts projection"]:
    """Unit vectors; raises ValueError if texts cannot be encoded, and names them."""
    reader = text_reader(model.config.text, PAIR_MAX_LENGTH)
    return embed(TextEmbedding(model), rows, reader, settings, "texts")


def embed(
    embedding: nn.Module, rows: Sequence[Row], reader: Reader, settings: Settings, what: str
) -> Float[np.ndarray, "rows projection"]:
    found = outputs_of(
        embedding,
        rows,
        reader,
        settings.precision,
        batch_size=settings.batch_size,
        shown_as=what,
    )
    refuse(
        settings.data_root,
        {f"{what} that cannot be read": [f"{each.key} ({each.message})" for each in found.skipped]},
        "Fetch them anew.",
    )
    return found.values.numpy()

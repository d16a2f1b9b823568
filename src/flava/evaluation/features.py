"""The features of a model: of the held-out data, and of one's own rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flava.core.batch import to_device
from flava.core.precision import Precision
from flava.core.progress import counted as counted
from flava.core.progress import progress as progress
from flava.data.errors import SkippedSample
from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import (
    ImageReader,
    PairReader,
    RowBatch,
    RowReader,
    TextReader,
    read_in_order,
)
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.data.transforms import ImageTransformConfig
from flava.evaluation.embedded_data import HeldOut, Texts, tokenizer
from flava.evaluation.linear_probe import LinearProbe, pca_of_pixels
from flava.models import (
    Clip,
    ClipTextConfig,
    Dino,
    FeaturesConfig,
    Flava,
    ImageConfig,
    MaskedImageModel,
    MaskedTextModel,
    TextConfig,
)
from flava.models.clip import end_of_text
from flava.models.flava import OPTIONAL_PARTS

Evaluated = Flava | Clip | MaskedImageModel | MaskedTextModel | Dino
"""What can be evaluated: whatever has an encoder of the corpus's images or texts."""

FLAVAS_OWN = frozenset(OPTIONAL_PARTS) - {"logit_scale"}
PARTS = FLAVAS_OWN | {"image_encoder", "text_encoder", "projections"}
"""What tasks may need, `missing_parts` what a model lacks of it."""

BOTH = ("image_encoder", "text_encoder", "projections")
"""What comparing images with texts needs of it."""


@dataclass(frozen=True)
class TextStates:
    """The text encoder's states before its norm; ``attention_mask`` is False at padding."""

    hidden: Float[Tensor, "texts length width"]
    attention_mask: Bool[Tensor, "texts length"]


class EvaluatedModel:
    """A model under evaluation. What it returns is on the CPU, joint states excepted."""

    def __init__(self, model: Evaluated, held_out: HeldOut, batch_size: int) -> None:
        self.model, self.held_out, self.batch_size = model, held_out, batch_size
        self.device = next(model.parameters()).device
        self.probes: dict[str, LinearProbe] = {}
        """Fitted on the features, each by the first task that needs it."""
        self._images: dict[str, tuple[Tensor, Tensor]] = {}
        self._captions: dict[str, Tensor] = {}
        self._codes: dict[str, Tensor] = {}

    @property
    def flava(self) -> Any:
        """The model by the names of a FLAVA's parts: `missing_parts` tells which of them it has."""
        return self.model

    def twin(self, model: Evaluated) -> "EvaluatedModel":
        """Another model with the same codebook, whose codes are computed once for both."""
        other = EvaluatedModel(model, self.held_out, self.batch_size)
        other._codes = self._codes
        return other

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        """The image encoder's [CLS] after the final norm."""
        return self._encode_images(split)[0].numpy()

    def text_features(self, texts: Texts) -> Float[np.ndarray, "texts width"]:
        """The text encoder's [CLS], or CLIP's end of text, after the final norm."""
        encoder = self.flava.text_encoder

        def encode(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = encoder(input_ids, attention_mask)
            ours = end_of_text(hidden, input_ids) if isinstance(self.model, Clip) else hidden[:, 0]
            return encoder.norm(ours).float()

        return self._encode(texts, encode).numpy()

    def image_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space."""
        return self._encode_images(split)[1]

    def caption_embeddings(self, split: str) -> Float[Tensor, "images projection"]:
        """Unit vectors of the canonical captions."""
        if split not in self._captions:
            self._captions[split] = self._embed(self.held_out.pairs(split).captions)
        return self._captions[split]

    def embed(self, texts: list[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of any texts."""
        return self._embed(Texts(texts, texts, self.model.config))

    def _embed(self, texts: Texts) -> Float[Tensor, "texts projection"]:
        return self._encode(texts, self.flava.encode_text)

    def codes(self, split: str) -> Int[Tensor, "images rows columns"]:
        """The codebook's codes of every patch."""
        if split not in self._codes:
            batches = self.held_out.pairs(split).codebook_pixels.split(self.batch_size)
            codebook = self.flava.codebook
            self._codes[split] = torch.cat(
                [codebook.codes(b.to(self.device)).cpu() for b in batches]
            )
        return self._codes[split]

    def image_states(
        self,
        pixels: Float[Tensor, "images 3 h w"],
        patch_mask: Bool[Tensor, "images rows columns"] | None = None,
    ) -> Float[Tensor, "images tokens width"]:
        """The image encoder's states before its norm, hiding the selected patches."""
        return torch.cat(
            [
                self.flava.image_encoder(
                    pixels[rows].to(self.device),
                    None if patch_mask is None else patch_mask[rows].to(self.device),
                ).cpu()
                for rows in torch.arange(len(pixels)).split(self.batch_size)
            ]
        )

    def text_states(
        self, texts: Texts, token_mask: Bool[Tensor, "texts length"] | None = None
    ) -> TextStates:
        """The text encoder's states, with [MASK] at the selected tokens."""
        input_ids = (
            texts.input_ids
            if token_mask is None
            else texts.input_ids.masked_fill(token_mask, tokenizer().mask)
        )
        width = self.flava.config.text.width
        hidden = torch.zeros(*input_ids.shape, width)
        for rows, length in self._by_length(texts.attention_mask):
            on_device = input_ids[rows, :length].to(self.device)
            states = self.flava.text_encoder(on_device, texts.attention_mask[rows, :length])
            hidden[rows, :length] = states.float().cpu()
        return TextStates(hidden, texts.attention_mask)

    def joint_states(
        self,
        images: Float[Tensor, "images image_tokens width"],
        texts: TextStates,
        image_rows: Int[Tensor, " pairs"],
        text_rows: Int[Tensor, " pairs"],
    ) -> Iterator[tuple[Int[Tensor, " batch"], Float[Tensor, "batch tokens joint"]]]:
        """The multimodal states of pairs of rows, as (which of the pairs, their states)."""
        for pairs, length in self._by_length(texts.attention_mask[text_rows]):
            rows = text_rows[pairs]
            yield (
                pairs,
                self.flava.multimodal(
                    images[image_rows[pairs]].to(self.device),
                    texts.hidden[rows, :length].to(self.device),
                    texts.attention_mask[rows, :length],
                ),
            )

    def _encode_images(self, split: str) -> tuple[Tensor, Tensor]:
        if split not in self._images:
            model, features, embeddings = self.flava, [], []
            for pixels in self.held_out.pairs(split).pixels.split(self.batch_size):
                hidden = model.image_encoder.cls(pixels.to(self.device))
                features.append(model.image_encoder.norm(hidden[:, 0]).float().cpu())
                if "projections" not in missing_parts(model):
                    embeddings.append(model.project_image(hidden).cpu())
            self._images[split] = torch.cat(features), torch.cat(embeddings or [torch.empty(0, 0)])
        return self._images[split]

    def _encode(
        self, texts: Texts, encode: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "texts width"]:
        """(ids, real) -> a vector for each text, of all texts in their order."""
        batches = list(self._by_length(texts.attention_mask))
        found = [
            encode(
                texts.input_ids[rows, :length].to(self.device), texts.attention_mask[rows, :length]
            ).cpu()
            for rows, length in batches
        ]
        return torch.cat(found)[torch.cat([rows for rows, _ in batches]).argsort()]

    def _by_length(
        self, attention_mask: Bool[Tensor, "texts length"]
    ) -> Iterator[tuple[Int[Tensor, " batch"], int]]:
        """Batches of rows from short texts to long, so that little padding is encoded."""
        lengths = attention_mask.sum(dim=1)
        for rows in lengths.argsort().split(self.batch_size):
            yield rows, int(lengths[rows].max())


def missing_parts(model: Evaluated) -> frozenset[str]:
    """Of what tasks need, the parts that the model has not, or at initial values only."""
    match model:
        case Flava():
            return model.missing_parts
        case Clip():
            return FLAVAS_OWN
        case MaskedImageModel():
            return PARTS - {"image_encoder", "mim_head", "codebook.encoder", "codebook.decoder"}
        case MaskedTextModel():
            return PARTS - {"text_encoder", "mlm_head"}
        case Dino():
            return PARTS - {"image_encoder"}


class PixelComponents:
    """The baseline of the linear probe: as many principal components of the pixels."""

    def __init__(self, held_out: HeldOut, fitted_on: str, components: int) -> None:
        self.held_out = held_out
        self.probes: dict[str, LinearProbe] = {}
        self.pca = pca_of_pixels(self._pixels(fitted_on), components, held_out.seed)

    def features(self, split: str) -> Float[np.ndarray, "images width"]:
        return self.pca.transform(self._pixels(split))

    def _pixels(self, split: str) -> Float[np.ndarray, "images pixels"]:
        return self.held_out.pairs(split).pixels.flatten(1).numpy()


@contextmanager
def evaluating(model: nn.Module, precision: Precision) -> Iterator[None]:
    """No gradients and no dropout within; the model's mode is as before afterwards."""
    was_training, device = model.training, next(model.parameters()).device.type
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(device, precision.dtype, enabled=precision is not Precision.FP32),
        ):
            yield
    finally:
        model.train(was_training)


BATCH_SIZE = 64
"""Rows that are computed at once; changes no figure."""

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

    rows: tuple[LabelledRow, ...]
    values: Float[Tensor, "rows width"]
    skipped: tuple[SkippedSample, ...]


def outputs_of(
    model: nn.Module,
    rows: Sequence[LabelledRow],
    reader: RowReader,
    precision: Precision,
    *,
    batch_size: int = BATCH_SIZE,
    shown_as: str | None = None,
) -> Outputs:
    """The model's output for every row, in order; with a progress bar if it has a name."""
    device = next(model.parameters()).device
    kept: list[LabelledRow] = []
    values: list[Tensor] = []
    skipped: list[SkippedSample] = []
    with evaluating(model, precision):
        for part in tracked(read_in_order(rows, reader, batch_size), len(rows), shown_as):
            if part.inputs is not None:
                values.append(model(to_device(part.inputs, device)).float().cpu())
            kept += part.rows
            skipped += part.skipped
    return Outputs(tuple(kept), torch.cat(values) if values else torch.empty(0, 0), tuple(skipped))


def tracked(parts: Iterable[RowBatch], total: int, shown_as: str | None) -> Iterable[RowBatch]:
    """The same parts under a progress bar with rate and time left."""
    return counted(parts, lambda part: len(part.rows) + len(part.skipped), total, shown_as)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How tasks are measured; all of it is written beside their figures."""

    data_root: Path
    """The folder that holds a folder for each data set."""
    cache: Path
    """Where features, extracted text and fine-tuned runs are kept: nothing is done twice."""
    few: int | None = None
    """Samples of each split that are looked at, drawn by the seed; all if not set."""
    seed: int = 0
    """Decides all that is drawn."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""
    batch_size: int = 64
    """Samples that are computed at once; changes no figure of a frozen model."""

"""Models for masked modelling of only images or only texts: an encoder and a prediction head.

Parameters have the same names as in `Flava`, so that they can initialise its parts.
"""

from dataclasses import dataclass, field

from pydantic import NonNegativeFloat
from torch import nn

from flava.models.codebook import Codebook, CodebookConfig
from flava.models.config import EncoderModel, ModelConfig
from flava.models.encoders import ImageConfig, ImageEncoder, TextConfig, TextEncoder
from flava.models.flava import PARTS, initialise_module
from flava.models.heads import MaskedHead


@dataclass(frozen=True, kw_only=True)
class MaskedImageConfig(ModelConfig):
    """Geometry of an image encoder under masked image modelling; the defaults are the paper's."""

    image: ImageConfig = field(default_factory=ImageConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights, as in `FlavaConfig`."""
    token_init_std: NonNegativeFloat = 0.0
    """Standard deviation of the initial [CLS] token, mask token and position embeddings, as in
    `FlavaConfig`."""


@dataclass(frozen=True, kw_only=True)
class MaskedTextConfig(ModelConfig):
    """Geometry of a text encoder under masked language modelling; the defaults are the paper's."""

    text: TextConfig = field(default_factory=TextConfig)
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights, as in `FlavaConfig`."""


class MaskedImageModel(EncoderModel):
    """The image encoder, the head that predicts codes, and the frozen codebook they come from."""

    config: MaskedImageConfig

    missing_parts = PARTS - {"image_encoder", "mim_head", "codebook.encoder", "codebook.decoder"}

    def __init__(self, config: MaskedImageConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config.image)
        self.mim_head = MaskedHead(config.image.width, config.codebook.codes)
        for module in self.modules():
            initialise_module(module, config.init_std)
        encoder = self.image_encoder
        for token in (encoder.cls_token, encoder.mask_token, encoder.positions):
            nn.init.normal_(token, std=config.token_init_std)
        # Added last, since the codebook has its own initialisation.
        self.codebook = Codebook(config.codebook).requires_grad_(False)


class MaskedTextModel(EncoderModel):
    """The text encoder and the head that predicts tokens."""

    config: MaskedTextConfig

    missing_parts = PARTS - {"text_encoder", "mlm_head"}

    def __init__(self, config: MaskedTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = TextEncoder(config.text)
        self.mlm_head = MaskedHead(config.text.width, config.text.vocabulary_size)
        for module in self.modules():
            initialise_module(module, config.init_std)

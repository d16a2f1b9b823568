"""FLAVA: three encoders, the projections between them, the five heads and the codebook."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.models.codebook import Codebook, CodebookConfig
from flava.models.config import EncoderModel, ModelConfig
from flava.models.encoders import (
    ImageConfig,
    ImageEncoder,
    MultimodalConfig,
    MultimodalEncoder,
    TextConfig,
    TextEncoder,
)
from flava.models.heads import MaskedHead, MatchingHead

INITIAL_LOGIT_SCALE = 2.6592
"""ln(1 / 0.07), CLIP's initial temperature, to the digits of the published code."""

MAX_LOGIT_SCALE = 4.6052
"""ln(100): the published code keeps the scale in [0, ln 100]."""


OPTIONAL_PARTS = (
    "mim_head",
    "mlm_head",
    "mmm_image_head",
    "mmm_text_head",
    "itm_head",
    "codebook.encoder",
    "codebook.decoder",
    "logit_scale",
)
"""Parts that some published checkpoints do not hold."""

PARTS = frozenset(OPTIONAL_PARTS) - {"logit_scale"} | {
    "image_encoder",
    "text_encoder",
    "projections",
}
"""Parts of a FLAVA that evaluation needs: see `EncoderModel.missing_parts`."""


@dataclass(frozen=True, kw_only=True)
class FlavaConfig(ModelConfig):
    """Geometry of the whole model; the defaults are the paper's base model.

    The published checkpoints have a contrastive space of 768 where the paper says 512.
    """

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    multimodal: MultimodalConfig = field(default_factory=MultimodalConfig)
    projection_width: PositiveInt = 512
    """Size of the contrastive space."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights, as published. Narrow models learn sooner with more."""
    token_init_std: NonNegativeFloat = 0.0
    """That of [CLS] and mask tokens and of image positions; the published code starts them at 0."""


class Flava(EncoderModel):
    """The model of the paper. Names of parameters convert to the published ones (`published`)."""

    config: FlavaConfig

    def __init__(self, config: FlavaConfig) -> None:
        super().__init__()
        self.config = config
        image, text, multimodal = config.image, config.text, config.multimodal
        self.image_encoder = ImageEncoder(image)
        self.text_encoder = TextEncoder(text)
        self.multimodal_encoder = MultimodalEncoder(multimodal)
        self.image_projection = nn.Linear(image.width, config.projection_width)
        self.text_projection = nn.Linear(text.width, config.projection_width)
        self.image_to_multimodal = nn.Linear(image.width, multimodal.width)
        self.text_to_multimodal = nn.Linear(text.width, multimodal.width)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.mim_head = MaskedHead(image.width, config.codebook.codes)
        self.mlm_head = MaskedHead(text.width, text.vocabulary_size)
        self.mmm_image_head = MaskedHead(multimodal.width, config.codebook.codes)
        self.mmm_text_head = MaskedHead(multimodal.width, text.vocabulary_size)
        self.itm_head = MatchingHead(multimodal.width)
        self.initialise()
        # After that, since the codebook has an initialisation of its own.
        self.codebook = Codebook(config.codebook).requires_grad_(False)
        self.missing_parts: frozenset[str] = frozenset()
        """Of `OPTIONAL_PARTS`, those that the checkpoint it was loaded from does not hold: they
        are at initial values, and `require` refuses them."""

    def initialise(self) -> None:
        """Weights and tokens from their normal distributions, biases 0, norms 1 and 0."""
        for module in self.modules():
            initialise_module(module, self.config.init_std)
        image, multimodal = self.image_encoder, self.multimodal_encoder
        for token in (image.cls_token, image.mask_token, image.positions, multimodal.cls_token):
            nn.init.normal_(token, std=self.config.token_init_std)

    def require(self, *parts: str) -> None:
        """Make sure that these of `OPTIONAL_PARTS` were loaded, before their output is used.

        Raises:
            ValueError: some were not.
        """
        if lost := [part for part in parts if part in self.missing_parts]:
            # The published layouts have no place for a decoder.
            drawn = "codebook.decoder" in lost
            remedy = "a run of `flava train`" if drawn else "a FlavaForPreTraining"
            raise ValueError(
                f"the checkpoint holds no weights for {', '.join(lost)}, which this needs: load "
                f"one that does, such as {remedy}"
            )

    def project_image(
        self, hidden: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch projection"]:
        """The image encoder's states (before its norm) -> unit vectors of the contrastive space."""
        return unit_length(self.image_projection(self.image_encoder.norm(hidden[:, 0])))

    def project_text(
        self, hidden: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch projection"]:
        """The text encoder's states (before its norm) -> unit vectors of the contrastive space."""
        return unit_length(self.text_projection(self.text_encoder.norm(hidden[:, 0])))

    def multimodal(
        self,
        image_hidden: Float[Tensor, "batch image_tokens image_width"],
        text_hidden: Float[Tensor, "batch text_tokens text_width"],
        attention_mask: Bool[Tensor, "batch text_tokens"],
        output_positions: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Both encoders' states (before their norms) -> multimodal states after the final norm.

        Their order is [CLS_M], image [CLS], patches, text; ``output_positions``: see
        `Transformer.run_blocks`.
        """
        encoder = self.multimodal_encoder
        image = self.image_to_multimodal(image_hidden)
        return encoder.norm(
            encoder(image, self.text_to_multimodal(text_hidden), attention_mask, output_positions)
        )

    def encode_image(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch projection"]:
        """Images -> unit vectors of the contrastive space."""
        return self.project_image(self.image_encoder.cls(pixels))

    def encode_text(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch projection"]:
        """Texts -> unit vectors of the contrastive space."""
        return self.project_text(self.text_encoder.cls(input_ids, attention_mask))


def initialise_module(module: nn.Module, std: float) -> None:
    """Weights from N(0, std), biases 0; norms keep the 1 and 0 of their construction."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def unit_length(features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    # In 32 bits: a cosine of two bf16 unit vectors has an error of about one percent.
    return functional.normalize(features.float(), dim=-1)

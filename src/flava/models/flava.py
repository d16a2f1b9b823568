"""FLAVA (Singh et al. 2022): three encoders, projections, five heads and the codebook."""

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
"""ln(100): the published code clamps the logarithmic scale to [0, ln 100]."""


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
"""Parts that some published checkpoints do not have."""

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
    """Dimension of the contrastive space, in which images and texts are compared."""
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of initial weights, as published. Narrow models learn sooner with a larger
    one."""
    token_init_std: NonNegativeFloat = 0.0
    """Standard deviation of the initial [CLS] tokens, mask token and image position embeddings; the
    published code initialises them with 0."""


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
        # Added last, since the codebook has its own initialisation.
        self.codebook = Codebook(config.codebook).requires_grad_(False)
        self.missing_parts: frozenset[str] = frozenset()
        """Those of `OPTIONAL_PARTS` that the loaded checkpoint does not have: they have initial
        values, and `require` refuses them."""

    def initialise(self) -> None:
        """Initialise weights and tokens by normal distributions, biases by 0, norms by 1 and 0."""
        for module in self.modules():
            initialise_module(module, self.config.init_std)
        image, multimodal = self.image_encoder, self.multimodal_encoder
        for token in (image.cls_token, image.mask_token, image.positions, multimodal.cls_token):
            nn.init.normal_(token, std=self.config.token_init_std)

    def require(self, *parts: str) -> None:
        """Check that parts among `OPTIONAL_PARTS` were loaded, before their output is used.

        Raises:
            ValueError: some were not.
        """
        if lost := [part for part in parts if part in self.missing_parts]:
            # Published layouts do not include the codebook's decoder.
            needs_decoder = "codebook.decoder" in lost
            remedy = "a run of `flava train`" if needs_decoder else "a FlavaForPreTraining"
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
        """Image and text states before their final norms -> multimodal states after the final norm.

        The order of the states is [CLS_M], image [CLS], patches, text. ``output_positions``: see
        `Transformer.run_blocks`.
        """
        image = self.image_to_multimodal(image_hidden)
        text = self.text_to_multimodal(text_hidden)
        states = self.multimodal_encoder(image, text, attention_mask, output_positions)
        return self.multimodal_encoder.norm(states)

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
    """Initialise weights by N(0, std) and biases by 0; norms keep torch's default of 1 and 0."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def unit_length(features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    """Normalise each row, in 32 bits: a cosine of bf16 unit vectors is off by about one percent."""
    return functional.normalize(features.float(), dim=-1)

"""CLIP (Radford et al. 2021): an image and a text encoder with a common contrastive space.

It is the baseline that FLAVA is compared with, as a ViT-B/16. Unlike FLAVA's, its image encoder has
a LayerNorm before its blocks, and no bias in its patch embedding. Its text encoder is causal, as in
GPT, and the state of the end-of-text token represents the text.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from flava.models.config import EncoderModel, ModelConfig
from flava.models.encoders import (
    ImageConfig,
    TextConfig,
    image_cls_only,
    position_ids,
    require_whole_patches,
    resize_positions,
)
from flava.models.flava import PARTS, unit_length
from flava.models.transformer import Activation, Transformer, blocks_of

NORM_EPS = 1e-5
"""LayerNorm's epsilon in OpenAI's CLIP: PyTorch's own default."""

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
"""The paper's initial temperature is 0.07 (section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class ClipImageConfig(ImageConfig):
    """Geometry of the image encoder; the default is the paper's ViT-B/16."""

    activation: Activation = Activation.QUICK_GELU
    norm_eps: PositiveFloat = NORM_EPS


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(TextConfig):
    """Geometry of the text encoder; the default is the one beside the paper's ViT-B/16."""

    vocabulary_size: PositiveInt = 49_408
    max_length: Annotated[int, Field(ge=2)] = 77
    width: PositiveInt = 512
    heads: PositiveInt = 8
    mlp_width: PositiveInt = 2048
    activation: Activation = Activation.QUICK_GELU
    norm_eps: PositiveFloat = NORM_EPS


@dataclass(frozen=True, kw_only=True)
class ClipConfig(ModelConfig):
    """Geometry of the whole model; the defaults are the paper's ViT-B/16."""

    image: ClipImageConfig = field(default_factory=ClipImageConfig)
    text: ClipTextConfig = field(default_factory=ClipTextConfig)
    projection_width: PositiveInt = 512
    """Dimension of the contrastive space, in which images and texts are compared."""


class ClipImageEncoder(Transformer):
    """Pixels -> states before the final norm: [CLS], then the patches row by row."""

    def __init__(self, config: ClipImageConfig) -> None:
        super().__init__(config)
        patch = config.patch_size
        self.patches = nn.Conv2d(3, config.width, patch, stride=patch, bias=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.width))
        self.norm_pre = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.grid = config.grid

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        output_positions: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens hidden"]:
        """For images of another size than the configured one, position embeddings are interpolated.

        Raises:
            ValueError: the sides of the images are no multiples of the patch size.
        """
        require_whole_patches(pixels, self.patches.stride[0])
        embedded = self.patches(pixels)
        rows, columns = embedded.shape[-2:]
        states = embedded.flatten(2).transpose(1, 2)
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1)
        positions = resize_positions(self.positions, self.grid, rows, columns)
        return self.run_blocks(self.norm_pre(states + positions), output_positions=output_positions)

    def cls(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 hidden"]:
        """Only the state of [CLS]."""
        return self(pixels, output_positions=image_cls_only(pixels, self.patches.stride[0]))[:, :1]


class ClipTextEncoder(Transformer):
    """Token ids -> states before the final norm; each attends to itself and those before it."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"],
        output_positions: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length hidden"]:
        """``attention_mask`` is False at padding; ``output_positions``: see `run_blocks`.

        Raises:
            ValueError: a text is longer than the position embeddings.
        """
        positions = position_ids(input_ids, self.positions.num_embeddings)
        return self.run_blocks(
            self.words(input_ids) + self.positions(positions),
            attention_mask,
            output_positions,
            causal=True,
        )

    def end(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length hidden"]:
        """The states, of which only those of end-of-text tokens are computed."""
        ends = torch.zeros_like(attention_mask)
        ends[torch.arange(len(input_ids), device=input_ids.device), input_ids.argmax(dim=1)] = True
        return self(input_ids, attention_mask, ends)


class Clip(EncoderModel):
    """The model of the paper, both encoders and their projections."""

    config: ClipConfig

    missing_parts = PARTS - {"image_encoder", "text_encoder", "projections"}

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        image, text = config.image, config.text
        self.image_encoder = ClipImageEncoder(image)
        self.text_encoder = ClipTextEncoder(text)
        self.image_projection = nn.Linear(image.width, config.projection_width, bias=False)
        self.text_projection = nn.Linear(text.width, config.projection_width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise as OpenAI's `CLIP.initialize_parameters` and `VisionTransformer`.

        These leave the image encoder's blocks and all MLP biases to PyTorch's default
        initialisation of `MultiheadAttention`, `Linear` and `Conv2d`.
        """
        image, text = self.image_encoder, self.text_encoder
        image_blocks, text_blocks = blocks_of(image), blocks_of(text)
        for block in image_blocks + text_blocks:
            nn.init.xavier_uniform_(block.attention.qkv.weight)
            nn.init.zeros_(block.attention.qkv.bias)
            nn.init.zeros_(block.attention.output.bias)
        std = self.config.image.width**-0.5
        for tensor in (image.cls_token, image.positions, self.image_projection.weight):
            nn.init.normal_(tensor, std=std)
        std = self.config.text.width**-0.5
        for block in text_blocks:
            nn.init.normal_(block.attention.qkv.weight, std=std)
            nn.init.normal_(block.mlp_in.weight, std=std * 2**-0.5)
            for layer in (block.attention.output, block.mlp_out):
                nn.init.normal_(layer.weight, std=std * (2 * len(text_blocks)) ** -0.5)
        nn.init.normal_(text.words.weight, std=0.02)
        nn.init.normal_(text.positions.weight, std=0.01)
        nn.init.normal_(self.text_projection.weight, std=std)

    def project_image(
        self, hidden: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch projection"]:
        """The image encoder's states (before its norm) -> unit vectors of the contrastive space."""
        return unit_length(self.image_projection(self.image_encoder.norm(hidden[:, 0])))

    def project_text(
        self, hidden: Float[Tensor, "batch tokens width"], input_ids: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch projection"]:
        """The text encoder's states (before its norm) -> unit vectors of the contrastive space.

        The state of the end-of-text token is projected.
        """
        return unit_length(
            self.text_projection(self.text_encoder.norm(end_of_text(hidden, input_ids)))
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
        return self.project_text(self.text_encoder.end(input_ids, attention_mask), input_ids)


def end_of_text(
    hidden: Float[Tensor, "batch tokens width"], input_ids: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch width"]:
    """The state of each text's end-of-text token, which has the largest id."""
    return hidden[torch.arange(len(input_ids), device=input_ids.device), input_ids.argmax(dim=1)]

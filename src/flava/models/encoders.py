"""The image, the text and the multimodal encoder: one transformer, three kinds of input."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from flava.models.transformer import Pooler, Transformer, TransformerConfig, cls_only


@dataclass(frozen=True, kw_only=True)
class ImageConfig(TransformerConfig):
    """Geometry of the image encoder; the default is the paper's ViT-B/16."""

    image_size: PositiveInt = 224
    """Side of the input in pixels."""
    patch_size: PositiveInt = 16
    """Side of a patch in pixels; must divide the image's."""

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    def mistakes(self, prefix: str) -> list[str]:
        found = super().mistakes(prefix)
        if self.patch_size > 0 and self.image_size % self.patch_size:
            found.append(
                f"{prefix}image_size is {self.image_size}: use a positive multiple of "
                f"{prefix}patch_size {self.patch_size}"
            )
        return found


class ImageEncoder(Transformer):
    """Pixels -> states before the final norm: [CLS], then the patches row by row."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.width)
        self.patches = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.width))
        self.grid = config.grid

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        patch_mask: Bool[Tensor, "batch rows columns"] | None = None,
        output_positions: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens hidden"]:
        """Patches where ``patch_mask`` is True are hidden; ``output_positions``: see `run_blocks`.

        The image may be of another size than the configured one, as long as it is whole patches:
        the position embeddings are then interpolated.

        Raises:
            ValueError: an image that is not whole patches.
        """
        whole_patches(pixels, self.patches.stride[0])
        embedded = self.patches(pixels)
        rows, columns = embedded.shape[-2:]
        states = embedded.flatten(2).transpose(1, 2)
        if patch_mask is not None:
            hidden = patch_mask.to(states.device, non_blocking=True).flatten(1)[..., None]
            states = torch.where(hidden, self.mask_token, states)
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1)
        positions = resize_positions(self.positions, self.grid, rows, columns)
        return self.run_blocks(states + positions, output_positions=output_positions)

    def cls(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 hidden"]:
        """The state of [CLS] alone."""
        return self(pixels, output_positions=cls_of_images(pixels, self.patches.stride[0]))[:, :1]


def cls_of_images(
    pixels: Float[Tensor, "batch 3 height width"], patch: int
) -> Bool[Tensor, "batch tokens"]:
    """What is read of images of which [CLS] alone is."""
    rows, columns = (side // patch for side in pixels.shape[-2:])
    return cls_only(len(pixels), 1 + rows * columns)


def whole_patches(pixels: Float[Tensor, "batch 3 height width"], patch: int) -> None:
    """Raises:
    ValueError: an image that is not whole patches.
    """
    height, width = pixels.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(
            f"an image of {height} x {width} pixels is not whole patches of {patch}: "
            "resize it to a multiple"
        )


def resize_positions(
    positions: Float[Tensor, "1 tokens hidden"], grid: int, rows: int, columns: int
) -> Float[Tensor, "1 resized hidden"]:
    """Position embeddings ([CLS], then ``grid`` x ``grid`` patches) for another grid.

    Bicubic to the explicit size, as published.
    """
    if (rows, columns) == (grid, grid):
        return positions
    cls, patches = positions[:, :1], positions[:, 1:]
    square = patches.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        square, size=(rows, columns), mode="bicubic", align_corners=False
    )
    return torch.cat([cls, resized.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True, kw_only=True)
class TextConfig(TransformerConfig):
    """Geometry of the text encoder; the default is the paper's, with BERT's uncased vocabulary."""

    vocabulary_size: PositiveInt = 30_522
    """Number of token ids."""
    max_length: Annotated[int, Field(ge=2)] = 512
    """Longest text in tokens, [CLS] and [SEP] included."""


TOKEN_TYPES = 2
"""BERT's two segments. FLAVA uses the first; the second is carried for the published layout."""


class TextEncoder(Transformer):
    """Token ids -> states before the final norm; [CLS] is the first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.width)
        self.words = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.max_length, config.width)
        self.types = nn.Embedding(TOKEN_TYPES, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"],
        output_positions: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length hidden"]:
        """Padding, where ``attention_mask`` is False, is not attended to; ``output_positions``: see
        `run_blocks`.

        Raises:
            ValueError: a text longer than the position embeddings.
        """
        positions = positions_of(input_ids, self.positions.num_embeddings)
        embedded = self.words(input_ids) + self.positions(positions) + self.types.weight[0]
        return self.run_blocks(self.embedding_norm(embedded), attention_mask, output_positions)

    def cls(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The state of [CLS] alone."""
        return self(input_ids, attention_mask, cls_only(len(input_ids), input_ids.shape[1]))[:, :1]


def positions_of(input_ids: Int[Tensor, "batch length"], longest: int) -> Int[Tensor, " length"]:
    """0, 1, 2, ... to the end of the texts.

    Raises:
        ValueError: texts of more than ``longest`` tokens.
    """
    length = input_ids.shape[1]
    if length > longest:
        raise ValueError(
            f"a text of {length} tokens is longer than the encoder's max_length {longest}: "
            "truncate it when tokenising"
        )
    return torch.arange(length, device=input_ids.device)


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig(TransformerConfig):
    """Geometry of the multimodal encoder; the default is the paper's, six blocks deep."""

    depth: PositiveInt = 6


class MultimodalEncoder(Transformer):
    """Projected image and text states -> states before the final norm: [CLS_M], image, text.

    There are no position or type embeddings: the states carry their own from below.
    """

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))

    def forward(
        self,
        image: Float[Tensor, "batch image_tokens hidden"],
        text: Float[Tensor, "batch text_tokens hidden"],
        attention_mask: Bool[Tensor, "batch text_tokens"],
        output_positions: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens hidden"]:
        """``output_positions``: see `run_blocks`."""
        states = torch.cat([self.cls_token.expand(len(image), -1, -1), image, text], dim=1)
        always = attention_mask.new_ones(len(image), 1 + image.shape[1])
        return self.run_blocks(states, torch.cat([always, attention_mask], dim=1), output_positions)

    def cls(
        self,
        image: Float[Tensor, "batch image_tokens hidden"],
        text: Float[Tensor, "batch text_tokens hidden"],
        attention_mask: Bool[Tensor, "batch text_tokens"],
    ) -> Float[Tensor, "batch 1 hidden"]:
        """The state of [CLS_M] alone."""
        length = 1 + image.shape[1] + text.shape[1]
        return self(image, text, attention_mask, cls_only(len(image), length))[:, :1]

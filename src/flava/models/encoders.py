"""The image, text and multimodal encoders: one transformer with three kinds of input."""

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
    """Height and width of the input in pixels."""
    patch_size: PositiveInt = 16
    """Height and width of a patch in pixels; must divide image_size."""

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
        """Patches where ``patch_mask`` is True are masked; ``output_positions``: see `run_blocks`.

        For images of another size than the configured one, position embeddings are interpolated.

        Raises:
            ValueError: the sides of the images are no multiples of the patch size.
        """
        require_whole_patches(pixels, self.patches.stride[0])
        embedded = self.patches(pixels)
        rows, columns = embedded.shape[-2:]
        states = embedded.flatten(2).transpose(1, 2)
        if patch_mask is not None:
            is_masked = patch_mask.to(states.device, non_blocking=True).flatten(1)[..., None]
            states = torch.where(is_masked, self.mask_token, states)
        states = torch.cat([self.cls_token.expand(len(states), -1, -1), states], dim=1)
        positions = resize_positions(self.positions, self.grid, rows, columns)
        return self.run_blocks(states + positions, output_positions=output_positions)

    def cls(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 hidden"]:
        """Only the state of [CLS]."""
        return self(pixels, output_positions=image_cls_only(pixels, self.patches.stride[0]))[:, :1]


def image_cls_only(
    pixels: Float[Tensor, "batch 3 height width"], patch: int
) -> Bool[Tensor, "batch tokens"]:
    """The ``output_positions`` of images if only [CLS] is read."""
    rows, columns = (side // patch for side in pixels.shape[-2:])
    return cls_only(len(pixels), 1 + rows * columns)


def require_whole_patches(pixels: Float[Tensor, "batch 3 height width"], patch: int) -> None:
    """Raises:
    ValueError: the sides of the images are no multiples of the patch size.
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
    """Interpolate position embeddings ([CLS], then ``grid`` x ``grid`` patches) to another grid.

    The interpolation is bicubic to the given size, as in the published code.
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
    """Length of the longest text in tokens, [CLS] and [SEP] included."""


TOKEN_TYPES = 2
"""Number of BERT's token types. FLAVA uses only the first; published checkpoints have both."""


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
        """``attention_mask`` is False at padding; ``output_positions``: see `run_blocks`.

        Raises:
            ValueError: a text is longer than the position embeddings.
        """
        positions = position_ids(input_ids, self.positions.num_embeddings)
        embedded = self.words(input_ids) + self.positions(positions) + self.types.weight[0]
        return self.run_blocks(self.embedding_norm(embedded), attention_mask, output_positions)

    def cls(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch 1 hidden"]:
        """Only the state of [CLS]."""
        return self(input_ids, attention_mask, cls_only(len(input_ids), input_ids.shape[1]))[:, :1]


def position_ids(input_ids: Int[Tensor, "batch length"], max_length: int) -> Int[Tensor, " length"]:
    """0, 1, 2, ... for each token of the texts.

    Raises:
        ValueError: the texts have more than ``max_length`` tokens.
    """
    length = input_ids.shape[1]
    if length > max_length:
        raise ValueError(
            f"a text of {length} tokens is longer than the encoder's max_length {max_length}: "
            "truncate it when tokenising"
        )
    return torch.arange(length, device=input_ids.device)


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig(TransformerConfig):
    """Geometry of the multimodal encoder; the default is the paper's, six blocks deep."""

    depth: PositiveInt = 6


class MultimodalEncoder(Transformer):
    """Projected image and text states -> states before the final norm: [CLS_M], image, text.

    There are no position or type embeddings: the image and text encoders have added theirs.
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
        image_mask = attention_mask.new_ones(len(image), 1 + image.shape[1])
        whole_mask = torch.cat([image_mask, attention_mask], dim=1)
        return self.run_blocks(states, whole_mask, output_positions)

    def cls(
        self,
        image: Float[Tensor, "batch image_tokens hidden"],
        text: Float[Tensor, "batch text_tokens hidden"],
        attention_mask: Bool[Tensor, "batch text_tokens"],
    ) -> Float[Tensor, "batch 1 hidden"]:
        """Only the state of [CLS_M]."""
        length = 1 + image.shape[1] + text.shape[1]
        return self(image, text, attention_mask, cls_only(len(image), length))[:, :1]

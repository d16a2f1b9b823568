"""Small models and random batches that several tests need."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flava.core.batch import ImageBatch, PairBatch, TextBatch, map_pixels
from flava.data.transforms import CLIP_MEAN, CLIP_STD
from flava.models import (
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)

MASK_ID = 3


def tiny_config() -> FlavaConfig:
    """All widths and depths differ, so that no two of them can be exchanged unnoticed."""
    return FlavaConfig(
        image=ImageConfig(image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48),
        text=TextConfig(
            vocabulary_size=53, max_length=12, width=24, depth=3, heads=3, mlp_width=40
        ),
        multimodal=MultimodalConfig(width=20, depth=2, heads=2, mlp_width=36),
        projection_width=16,
        codebook=CodebookConfig(codes=19, width=8, blocks=1, decoder_input_width=6),
    )


def tiny_model() -> Flava:
    model = Flava(tiny_config())
    randomise(model)
    return model


def randomise(model: nn.Module, std: float = 0.2) -> None:
    """Values everywhere, so that nothing is hidden by a zero: also norms, biases and tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std)


def random_images(config: FlavaConfig, batch: int, share: float = 0.4) -> ImageBatch:
    """``share`` of the patches is selected, at random."""
    grid = config.image.grid
    return ImageBatch(
        keys=tuple(f"image-{i}" for i in range(batch)),
        pixels=torch.randn(batch, 3, config.image.image_size, config.image.image_size),
        # Colours change by the patch: noise would leave the codes the same everywhere.
        codebook_pixels=map_pixels(
            torch.rand(batch, 3, grid, grid).repeat_interleave(8, 2).repeat_interleave(8, 3)
        ),
        patch_mask=torch.rand(batch, grid, grid) < share,
    )


def random_texts(config: FlavaConfig, lengths: list[int], share: float = 0.4) -> TextBatch:
    """Texts of these lengths, padded to the longest; id 0 is the padding."""
    shape = (len(lengths), max(lengths))
    attention_mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    input_ids = torch.randint(MASK_ID + 1, config.text.vocabulary_size, shape).where(
        attention_mask, 0
    )
    token_mask = (torch.rand(shape) < share) & attention_mask
    return TextBatch(
        keys=tuple(f"text-{i}" for i in range(len(lengths))),
        input_ids=input_ids,
        attention_mask=attention_mask,
        input_ids_masked=input_ids.masked_fill(token_mask, MASK_ID),
        token_mask=token_mask,
    )


def random_pairs(config: FlavaConfig, lengths: list[int], matched: Tensor) -> PairBatch:
    return PairBatch(
        image=random_images(config, len(lengths)),
        text=random_texts(config, lengths),
        matched=matched,
    )


def denormalise(pixels: Tensor) -> Tensor:
    """The image encoder's pixels, (..., 3, height, width), as levels in [0, 1]."""
    mean, std = pixels.new_tensor([CLIP_MEAN, CLIP_STD])[..., None, None]
    return (pixels * std + mean).clamp(0, 1)


def same_but_for_rounding(
    pixels: Tensor, codebook_pixels: Tensor, published: Mapping[str, Tensor]
) -> None:
    """Both views against the published processor's.

    Both round to the 256 levels after each axis: seldom to other ones, at most two apart.
    """
    for ours, theirs, level in (
        (pixels, published["pixel_values"], 1 / 255 / min(CLIP_STD)),
        (codebook_pixels, published["codebook_pixel_values"], 0.8 / 255),
    ):
        difference = (ours - theirs).abs() / level
        assert difference.max() < 2.01
        assert difference.mean() < 0.05

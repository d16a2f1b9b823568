"""Tiny models with the vocabularies of the real ones."""

import torch

from flava.models import (
    Clip,
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from tests.support import randomise


def tiny_flava() -> Flava:
    torch.manual_seed(0)
    model = Flava(
        FlavaConfig(
            image=ImageConfig(
                image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48
            ),
            text=TextConfig(max_length=77, width=24, depth=1, heads=3, mlp_width=40),
            multimodal=MultimodalConfig(width=20, depth=1, heads=2, mlp_width=36),
            projection_width=16,
            codebook=CodebookConfig(codes=19, width=8, blocks=1, decoder_input_width=6),
        )
    )
    randomise(model)
    return model


def tiny_clip() -> Clip:
    torch.manual_seed(0)
    model = Clip(
        ClipConfig(
            image=ClipImageConfig(
                image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48
            ),
            text=ClipTextConfig(width=24, depth=1, heads=3, mlp_width=40),
            projection_width=16,
        )
    )
    randomise(model)
    return model

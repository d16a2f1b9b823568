"""A small DINO and random crops for it, that several tests need."""

import torch

from flava.core.batch import CropBatch
from flava.models import Dino, DinoConfig, ImageConfig
from tests.support import randomise

OUTPUTS = 13


def dino_config(drop_path: float = 0.0) -> DinoConfig:
    return DinoConfig(
        image=ImageConfig(
            image_size=24,
            patch_size=6,
            width=16,
            depth=2,
            heads=2,
            mlp_width=20,
            drop_path=drop_path,
        ),
        head_width=18,
        bottleneck=7,
        outputs=OUTPUTS,
    )


def dino_model(drop_path: float = 0.0) -> Dino:
    """Student and teacher differ, and nothing is hidden by a zero."""
    model = Dino(dino_config(drop_path))
    randomise(model)
    torch.nn.init.normal_(model.center, std=0.2)
    return model


def random_crops(batch: int = 5, local_crops: int = 3) -> CropBatch:
    return CropBatch(
        keys=tuple(f"image-{i}" for i in range(batch)),
        global_crops=torch.randn(2, batch, 3, 24, 24),
        local_crops=torch.randn(local_crops, batch, 3, 12, 12),
    )

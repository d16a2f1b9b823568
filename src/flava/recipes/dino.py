"""Recipes of DINO, which trains an image encoder: as published for ViT-B/16, and a small twin."""

from collections.abc import Callable
from pathlib import Path

from flava.core.precision import Precision
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.multi_crop import CropConfig
from flava.models import DinoConfig, ImageConfig
from flava.objectives import DinoObjectiveConfig
from flava.recipes.tiny import IMAGE, PATCH
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import Run

IMAGENET_STREAMS = 1024
"""Streams that ImageNet's 1,282 shards are read in: enough that up to 64 GPUs, with 16 worker
processes each, read each shard once."""


def image_dino() -> Run:
    """DINO's ViT-B/16 protocol on ImageNet-1k's images.

    The numbers are the arguments of the published run, ``dino_vitbase16_pretrain/args.txt`` (linked
    from facebookresearch/dino's README): 400 epochs, batches of 1,024 (32 on each of 32 GPUs), base
    rate 0.00075 for 256 images, 10 epochs of warm-up, gradients clipped to 0.3 each, drop path 0.1,
    weight decay 0.04 to 0.4, ten local crops, no half precision. Its crops are of the original
    images, whose size `flava data build imagenet-1k` keeps. Betas and epsilon are torch's. As
    other repositories repeat them, the batch with less certainty: docs/decisions/0015-dino.md.
    """
    batch, epoch = 1024, 1251
    rate = 0.00075 * batch / 256
    return Run(
        recipe="image-dino",
        output_dir=Path("runs/image-dino"),
        max_steps=400 * epoch,
        model=DinoConfig(image=ImageConfig(drop_path=0.1)),
        objective=DinoObjectiveConfig(epoch_steps=epoch),
        data=DataConfig(
            images=SourceConfig(shards=("root:imagenet-1k/*.tar",), weight=1.0, batch_size=batch),
            crops=CropConfig(local_crops=10, global_scale=(0.25, 1.0), local_scale=(0.05, 0.25)),
            workers=10,
            streams=IMAGENET_STREAMS,
        ),
        optimizer=OptimizerConfig(
            lr=rate,
            weight_decay=0.04,
            final_weight_decay=0.4,
            max_grad_norm=0.3,
            clip_each=True,
        ),
        schedule=ScheduleConfig(warmup_steps=10 * epoch, final_fraction=2e-6 / rate),
        precision=Precision.FP32,
        checkpoint_every=epoch,
    )


def image_dino_tiny() -> Run:
    """DINO on the embedded corpus's images, for the image encoder of `flava-tiny`."""
    width, epoch = 192, 40
    return Run(
        recipe="image-dino-tiny",
        output_dir=Path("runs/image-dino-tiny"),
        max_steps=12 * epoch,
        model=DinoConfig(
            image=ImageConfig(
                image_size=IMAGE.image_size,
                patch_size=PATCH,
                width=width,
                heads=3,
                mlp_width=4 * width,
                depth=3,
                drop_path=0.1,
            ),
            head_width=256,
            bottleneck=64,
            outputs=1024,
            init_std=0.08,
            token_init_std=0.5,
        ),
        objective=DinoObjectiveConfig(
            epoch_steps=epoch,
            # Warmer, the teacher drifts to all outputs alike; colder, to one (docs/log.md).
            teacher_temperature=0.03,
            first_teacher_temperature=0.02,
            temperature_epochs=2,
            freeze_epochs=1,
        ),
        data=DataConfig(
            images=SourceConfig(shards=("embedded:images/*-train.tar",), weight=1.0, batch_size=32),
            crops=CropConfig(global_size=IMAGE.image_size, local_size=3 * PATCH, local_crops=4),
        ),
        optimizer=OptimizerConfig(
            lr=5e-4, weight_decay=0.04, final_weight_decay=0.4, max_grad_norm=0.3, clip_each=True
        ),
        schedule=ScheduleConfig(warmup_steps=epoch),
        precision=Precision.FP32,
        checkpoint_every=2 * epoch,
    )


RECIPES: dict[str, Callable[[], Run]] = {
    "image-dino": image_dino,
    "image-dino-tiny": image_dino_tiny,
}

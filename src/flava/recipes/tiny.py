"""Small recipes for a CPU: FLAVA and its codebook, on the corpus that comes with the package."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flava.data.data_config import DataConfig, SourceConfig
from flava.data.transforms import ImageTransformConfig
from flava.methods import Validator
from flava.models import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava.objectives import CodebookObjectiveConfig, FlavaObjectiveConfig
from flava.training.initialization import InitConfig
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import Run

STYLES = "{noto,noto-v1,fluent-emoji-flat,fxemoji,emojione,emojione-v1}"
"""The drawing styles that are used for training; twemoji and openmoji are held out."""

IMAGE = ImageTransformConfig(image_size=40, codebook_size=40)
PATCH = IMAGE.image_size // IMAGE.grid
CODEBOOK_IMAGE = ImageTransformConfig(image_size=48, codebook_size=48)
CODEBOOK = CodebookConfig(codes=512, width=32, blocks=1, decoder_input_width=64)


def flava_tiny() -> Run:
    """FLAVA's five objectives on emoji, digits and dictionary glosses: `make demo`."""
    width, heads = 192, 3
    return Run(
        recipe="flava-tiny",
        output_dir=Path("runs/flava-tiny"),
        max_steps=1150,
        model=FlavaConfig(
            image=ImageConfig(
                image_size=IMAGE.image_size,
                patch_size=PATCH,
                width=width,
                heads=heads,
                mlp_width=4 * width,
                depth=3,
            ),
            text=TextConfig(width=width, heads=heads, mlp_width=4 * width, depth=1, max_length=64),
            multimodal=MultimodalConfig(width=width, heads=heads, mlp_width=4 * width, depth=1),
            projection_width=128,
            codebook=CODEBOOK,
            init_std=0.08,
            token_init_std=0.5,
        ),
        objective=FlavaObjectiveConfig(),
        data=DataConfig(
            pairs=SourceConfig(
                shards=(f"embedded:pairs/{STYLES}-train.tar",), weight=0.70, batch_size=128
            ),
            images=SourceConfig(
                shards=("embedded:images/*-train.tar",), weight=0.15, batch_size=128
            ),
            text=SourceConfig(
                shards=("embedded:text/wordnet-train.jsonl",), weight=0.15, batch_size=128
            ),
            image=replace(IMAGE, crop_scale=(0.6, 1.0)),
            pair_max_length=32,
            text_max_length=64,
        ),
        # Five times the paper's decay: on so little data it helps unseen concepts (docs/log.md).
        # Clipping, which the paper has not, lets it learn at a higher rate after a short warm-up.
        optimizer=OptimizerConfig(lr=1.5e-3, weight_decay=0.5, max_grad_norm=1.0),
        schedule=ScheduleConfig(warmup_steps=100),
        init=InitConfig(codebook="shipped:codebook-tiny"),
        validator=Validator.EMBEDDED,
        # Of 250 images the zero-shot accuracy has a standard error of 2.8 points.
        validate_every=230,
        validation_tolerance=0.028,
        checkpoint_every=230,
    )


def codebook_tiny() -> Run:
    """The dVAE whose codes `flava-tiny` predicts, on all the corpus's training images."""
    return Run(
        recipe="codebook-tiny",
        output_dir=Path("runs/codebook-tiny"),
        max_steps=1500,
        model=CODEBOOK,
        objective=CodebookObjectiveConfig(temperature_steps=1200, kl_steps=300),
        data=DataConfig(
            images=SourceConfig(
                shards=(f"embedded:pairs/{STYLES}-train.tar", "embedded:images/*-train.tar"),
                weight=1.0,
                batch_size=64,
            ),
            image=CODEBOOK_IMAGE,
        ),
        optimizer=OptimizerConfig(lr=4e-3, weight_decay=1e-4, max_grad_norm=100.0),
        schedule=ScheduleConfig(warmup_steps=50),
        checkpoint_every=500,
    )


RECIPES: dict[str, Callable[[], Run]] = {
    "flava-tiny": flava_tiny,
    "codebook-tiny": codebook_tiny,
}

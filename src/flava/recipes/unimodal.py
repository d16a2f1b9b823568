"""Recipes that train on one modality: MIM, MLM, RoBERTa's and BEiT's pretraining, and the dVAE.

Sources: "FLAVA" is Singh et al. 2022; "Table A.1" its supplement's.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flava.data.data_config import DataConfig, SourceConfig
from flava.data.transforms import ImageTransformConfig
from flava.methods import Validator
from flava.models import (
    CodebookConfig,
    FlavaConfig,
    ImageConfig,
    MaskedImageConfig,
    MaskedTextConfig,
)
from flava.objectives import CodebookObjectiveConfig, MaskedObjectiveConfig
from flava.recipes.columns import BATCH_SIZE, PMD_STEPS, TINY, VALIDATE_EVERY, flava_mm
from flava.recipes.dino import IMAGENET_STREAMS
from flava.recipes.tiny import STYLES, flava_tiny
from flava.training.initialization import InitConfig
from flava.training.optimizer import Decay, OptimizerConfig, ScheduleConfig
from flava.training.run import Run

PMD = ("root:pmd/*/*.tar",)
IMAGENET = ("root:imagenet-1k/*.tar",)
BEIT_EPOCH = 625
"""Steps of an epoch: 1,281,167 images of ImageNet-1k in whole batches of 2,048."""


def mim() -> Run:
    """Masked image modelling on PMD's images alone: column 1 of Table C.1.

    Optimiser, batch size and warm-up are those of Table A.1, and gradients are not clipped, as in
    `flava`. FLAVA makes as many steps, 150,000, on PMD (supplement, "Sampling"). Needs a codebook:
    `flava train codebook`, or a published one.
    """
    return Run(
        recipe="mim",
        output_dir=Path("runs/mim"),
        max_steps=PMD_STEPS,
        model=MaskedImageConfig(),
        objective=MaskedObjectiveConfig(),
        data=DataConfig(images=SourceConfig(shards=PMD, weight=1.0, batch_size=BATCH_SIZE)),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        init=InitConfig(codebook="runs/codebook"),
        validate_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
    )


def mlm() -> Run:
    """Masked language modelling on PMD's captions alone: column 2 of Table C.1.

    Settings as in `mim`. Each caption is a sample, cut to 77 tokens as in pairs.
    """
    return replace(
        mim(),
        recipe="mlm",
        output_dir=Path("runs/mlm"),
        model=MaskedTextConfig(),
        data=DataConfig(
            text=SourceConfig(shards=PMD, weight=1.0, batch_size=BATCH_SIZE), text_max_length=77
        ),
        init=InitConfig(),
    )


def text_mlm() -> Run:
    """RoBERTa's pretraining on CCNews and BookCorpus: the text encoder that FLAVA starts from.

    FLAVA (section 4): RoBERTa-base's hyper-parameters with 125,000 steps of 2,048 sequences at
    5e-4; the best checkpoint by MLM loss. Those are the numbers of fairseq's
    ``examples/roberta/config/pretraining/base.yaml``, and so are the others here: 10,000 warm-up
    steps, then linear to 0; betas 0.9 and 0.98, epsilon 1e-6, weight decay 0.01 (as in table 9 of
    Liu et al. 2019), no clipping, full sentences packed to 512 tokens, of whole documents as `flava
    data build` writes them by default. RoBERTa's dropout of 0.1 and its vocabulary are not FLAVA's,
    whose text encoder has no dropout and BERT's.
    """
    return Run(
        recipe="text-mlm",
        output_dir=Path("runs/text-mlm"),
        max_steps=125_000,
        model=MaskedTextConfig(),
        objective=MaskedObjectiveConfig(),
        data=DataConfig(
            text=SourceConfig(
                shards=("root:ccnews/*.jsonl", "root:bookcorpus/*.jsonl"),
                weight=1.0,
                batch_size=2048,
            ),
            text_max_length=512,
            pack_sentences=True,
        ),
        optimizer=OptimizerConfig(
            lr=5e-4, beta2=0.98, eps=1e-6, weight_decay=0.01, max_grad_norm=math.inf
        ),
        schedule=ScheduleConfig(warmup_steps=10_000, decay=Decay.LINEAR),
        validator=Validator.LOSS,
        validation=("root:ccnews-val/*.jsonl", "root:bookcorpus-val/*.jsonl"),
        validate_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
    )


def image_beit() -> Run:
    """BEiT's pretraining on ImageNet-1k: an image encoder that FLAVA starts from.

    microsoft/unilm, ``beit``: README ("Pre-training BEiT-base on ImageNet-1k") and the defaults of
    ``run_beit_pretraining.py`` and ``datasets.py``: 800 epochs of 625 steps, batch 2,048, peak
    1.5e-3 after 10 epochs of warm-up, cosine to 1e-5; betas 0.9 and 0.98, epsilon 1e-8, weight
    decay 0.05, clipping at 3, drop path 0.1; 75 of 196 patches hidden; colour jitter 0.4, flips,
    crops of 0.08 to 1 of the area of the original images, whose size `flava data build imagenet-1k`
    keeps. What of its architecture FLAVA keeps: docs/decisions/0016.
    """
    return Run(
        recipe="image-beit",
        output_dir=Path("runs/image-beit"),
        max_steps=800 * BEIT_EPOCH,
        model=MaskedImageConfig(image=ImageConfig(drop_path=0.1)),
        objective=MaskedObjectiveConfig(),
        data=DataConfig(
            images=SourceConfig(shards=IMAGENET, weight=1.0, batch_size=2048),
            image=ImageTransformConfig(
                crop_scale=(0.08, 1.0), flip_probability=0.5, colour_jitter=0.4
            ),
            patch_mask_fraction=75 / 196,
            streams=IMAGENET_STREAMS,
        ),
        optimizer=OptimizerConfig(lr=1.5e-3, beta2=0.98, weight_decay=0.05, max_grad_norm=3.0),
        schedule=ScheduleConfig(warmup_steps=10 * BEIT_EPOCH, final_fraction=1e-5 / 1.5e-3),
        init=InitConfig(codebook="runs/codebook"),
        validate_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
    )


def codebook() -> Run:
    """DALL-E's dVAE, whose 8,192 codes the losses of images predict, on PMD's images.

    Ramesh et al. 2021, appendix A.2: 3,000,000 steps of 512 images of 256 pixels; AdamW at 1e-4,
    by a cosine to 1.25e-6 over 1,200,000 steps; betas 0.9 and 0.999, epsilon 1e-8, weight decay
    1e-4; KL weight 6.6 over 5,000 steps, temperature 1/16 over 150,000 (the objective's
    defaults). Its crops (listing 1) take 2/3 to 8/9 of the shorter side, flipped at random: here
    the same shares of the area, of aspect ratios from 3/4 to 4/3. Not here: its average of iterates
    (decay 0.999) and its 250 million images, which nobody else has.
    """
    return Run(
        recipe="codebook",
        output_dir=Path("runs/codebook"),
        max_steps=3_000_000,
        model=CodebookConfig(),
        objective=CodebookObjectiveConfig(),
        data=DataConfig(
            images=SourceConfig(shards=PMD, weight=1.0, batch_size=512),
            image=ImageTransformConfig(
                image_size=256,
                codebook_size=256,
                crop_scale=(4 / 9, 64 / 81),
                flip_probability=0.5,
            ),
        ),
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=1e-4, max_grad_norm=math.inf),
        schedule=ScheduleConfig(warmup_steps=0, final_fraction=1.25e-6 / 1e-4, decay_end=1_200_000),
        checkpoint_every=10_000,
    )


def mim_tiny() -> Run:
    """`mim` on the pictures of the embedded pairs, as many batches as the columns see of these."""
    parent, model = flava_tiny(), _tiny_model()
    return replace(
        mim(),
        recipe="mim-tiny",
        output_dir=Path("runs/mim-tiny"),
        max_steps=flava_mm(TINY).max_steps,
        model=MaskedImageConfig(
            image=model.image,
            codebook=model.codebook,
            init_std=model.init_std,
            token_init_std=model.token_init_std,
        ),
        data=DataConfig(
            images=SourceConfig(
                shards=(f"embedded:pairs/{STYLES}-train.tar",), weight=1.0, batch_size=128
            ),
            image=parent.data.image,
        ),
        optimizer=parent.optimizer,
        schedule=parent.schedule,
        init=parent.init,
        validator=Validator.LOSS,
        validation=(f"embedded:pairs/{STYLES}-val.tar",),
        validate_every=parent.validate_every,
        checkpoint_every=parent.checkpoint_every,
    )


def mlm_tiny() -> Run:
    """`mlm` on the captions of the embedded pairs, as many batches as the columns see of these."""
    parent, model = flava_tiny(), _tiny_model()
    return replace(
        mlm(),
        recipe="mlm-tiny",
        output_dir=Path("runs/mlm-tiny"),
        max_steps=flava_mm(TINY).max_steps,
        model=MaskedTextConfig(text=model.text, init_std=model.init_std),
        data=DataConfig(
            text=SourceConfig(
                shards=(f"embedded:pairs/{STYLES}-train.tar",), weight=1.0, batch_size=128
            ),
            text_max_length=parent.data.pair_max_length,
        ),
        optimizer=parent.optimizer,
        schedule=parent.schedule,
        validator=Validator.LOSS,
        validation=(f"embedded:pairs/{STYLES}-val.tar",),
        validate_every=parent.validate_every,
        checkpoint_every=parent.checkpoint_every,
    )


def text_mlm_tiny() -> Run:
    """`text-mlm` on the embedded dictionary's definitions, packed to 64 tokens."""
    parent, paper = mlm_tiny(), text_mlm()
    return replace(
        paper,
        recipe="text-mlm-tiny",
        output_dir=Path("runs/text-mlm-tiny"),
        max_steps=800,
        model=parent.model,
        data=replace(
            paper.data,
            text=SourceConfig(
                shards=("embedded:text/wordnet-train.jsonl",), weight=1.0, batch_size=64
            ),
            text_max_length=64,
        ),
        optimizer=replace(paper.optimizer, lr=parent.optimizer.lr, max_grad_norm=1.0),
        schedule=replace(paper.schedule, warmup_steps=50),
        validation=("embedded:text/wordnet-val.jsonl",),
        validate_every=200,
        checkpoint_every=200,
    )


def image_beit_tiny() -> Run:
    """`image-beit` on the embedded images without text."""
    parent, paper = mim_tiny(), image_beit()
    model = parent.model
    assert isinstance(model, MaskedImageConfig)
    return replace(
        paper,
        recipe="image-beit-tiny",
        output_dir=Path("runs/image-beit-tiny"),
        max_steps=600,
        model=replace(model, image=replace(model.image, drop_path=0.1)),
        data=replace(
            parent.data,
            images=SourceConfig(
                shards=("embedded:images/*-train.tar",), weight=1.0, batch_size=128
            ),
            image=replace(parent.data.image, flip_probability=0.5, colour_jitter=0.4),
        ),
        optimizer=replace(paper.optimizer, lr=parent.optimizer.lr),
        schedule=replace(paper.schedule, warmup_steps=50),
        init=parent.init,
        validator=parent.validator,
        validation=parent.validation,
        validate_every=200,
        checkpoint_every=200,
    )


def _tiny_model() -> FlavaConfig:
    """The model of `flava-tiny`, whose encoders the small twins train."""
    model = flava_tiny().model
    assert isinstance(model, FlavaConfig)
    return model


RECIPES: dict[str, Callable[[], Run]] = {
    "codebook": codebook,
    "mim": mim,
    "mim-tiny": mim_tiny,
    "mlm": mlm,
    "mlm-tiny": mlm_tiny,
    "text-mlm": text_mlm,
    "text-mlm-tiny": text_mlm_tiny,
    "image-beit": image_beit,
    "image-beit-tiny": image_beit_tiny,
}

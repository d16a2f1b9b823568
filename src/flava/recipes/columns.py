"""Recipes of the columns of Table C.1 that train on pairs, at the paper's scale and as small twins.

Column 10 is the complete FLAVA. Every other column changes a few fields of another one, in the same
way at both scales. "The paper" is Singh et al. 2022; tables A.1 and A.2 are in its supplement.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flava.core.distributed import Gather
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.tokenizers import Vocabulary
from flava.methods import Validator
from flava.models import ClipConfig, ClipImageConfig, ClipTextConfig, FlavaConfig
from flava.objectives import ClipObjectiveConfig, FlavaObjectiveConfig
from flava.recipes.tiny import IMAGE, PATCH, flava_tiny
from flava.training.initialization import InitConfig
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import Run

PMD_STEPS = 150_000
"""Steps on batches of PMD, whatever other data is mixed in (Table A.2)."""

BATCH_SIZE = 8_192
"""Samples of all ranks together (Table A.1)."""

VALIDATE_EVERY = 8_000
"""Steps between two measurements of the zero-shot accuracy on ImageNet-1k's validation images, by
which the best checkpoint is chosen (section B.1)."""


def flava() -> Run:
    """All five objectives on pairs, images and texts, from scratch.

    The defaults of optimiser and schedule are those of Table A.1, the weights of the data sets
    those of Table A.2, and the defaults of the model are the paper's. Every 8,000 steps the
    zero-shot accuracy on ImageNet-1k decides whether the checkpoint is the best so far (B.1). The
    paper does not tell how long unpaired texts are: they are packed as in the pretraining of the
    text encoder (`text-mlm`), from the same shards.
    Gradients are not clipped: neither the paper nor the released trainer
    (facebookresearch/multimodal, ``examples/flava``) does. Biases, norms and the temperature have
    no weight decay, as is usual; the paper is silent, and the released trainer decays them too.
    """
    pairs, images, text = 0.70, 0.15, 0.15
    return Run(
        recipe="flava",
        output_dir=Path("runs/flava"),
        max_steps=round(PMD_STEPS / pairs),
        model=FlavaConfig(),
        objective=FlavaObjectiveConfig(gather=Gather.GLOBAL),
        data=DataConfig(
            pairs=SourceConfig(shards=("root:pmd/*/*.tar",), weight=pairs, batch_size=BATCH_SIZE),
            images=SourceConfig(
                shards=("root:imagenet-1k/*.tar",), weight=images, batch_size=BATCH_SIZE
            ),
            text=SourceConfig(
                shards=("root:ccnews/*.jsonl", "root:bookcorpus/*.jsonl"),
                weight=text,
                batch_size=BATCH_SIZE,
            ),
            pack_sentences=True,
            # Four streams for each of 1,024 worker processes: 64 GPUs with 16, or 128 with 8.
            streams=4096,
        ),
        optimizer=OptimizerConfig(),
        schedule=ScheduleConfig(),
        init=InitConfig(codebook="runs/codebook"),
        validator=Validator.IMAGENET,
        validate_every=VALIDATE_EVERY,
        checkpoint_every=VALIDATE_EVERY,
    )


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The two sizes of the columns: what the other columns of a size are derived from."""

    flava: Callable[[], Run]
    """Column 10."""
    clip: ClipConfig
    """The model of column 13."""
    ranks: int
    """Ranks that each process simulates where the contrastive gradient is local."""
    suffix: str
    """Appended to the names of recipes."""


PAPER = Scale(flava=flava, clip=ClipConfig(), ranks=1, suffix="")
"""CLIP's is OpenAI's ViT-B/16, with the activation of its paper's weights."""

TINY = Scale(
    flava=flava_tiny,
    # As wide as flava-tiny's image encoder; the text encoder has two thirds, as in the paper.
    clip=ClipConfig(
        image=ClipImageConfig(
            image_size=IMAGE.image_size,
            patch_size=PATCH,
            width=192,
            heads=3,
            mlp_width=768,
            depth=3,
        ),
        text=ClipTextConfig(width=128, heads=2, mlp_width=512, depth=1, max_length=32),
        projection_width=128,
    ),
    ranks=8,  # with 16 pairs each: for a single rank the local gradient is the global one
    suffix="-tiny",
)


def flava_mm(scale: Scale = PAPER) -> Run:
    """Contrast, masked multimodal modelling and matching on pairs alone, from scratch.

    It sees as many batches of pairs as column 10 does.
    """
    parent = scale.flava()
    weights = parent.data.weights
    return replace(
        _renamed(parent, "flava-mm", scale),
        max_steps=round(parent.max_steps * weights["pairs"] / sum(weights.values())),
        data=replace(parent.data, images=None, text=None),
    )


def _flava_c(scale: Scale = PAPER) -> Run:
    """Contrast alone, with a gradient through the features of all ranks, from scratch."""
    parent = flava_mm(scale)
    return replace(
        _renamed(parent, "flava-c", scale),
        data=replace(parent.data, mask_pairs=False),
        init=InitConfig(),
    )


def _flava_c_local(scale: Scale = PAPER) -> Run:
    """Contrast alone, with a gradient through the rank's own features only, from scratch."""
    return replace(
        _renamed(_flava_c(scale), "flava-c-local", scale),
        objective=FlavaObjectiveConfig(gather=Gather.LOCAL, ranks=scale.ranks),
    )


def _clip_pmd(scale: Scale = PAPER) -> Run:
    """CLIP's encoders and tokens, trained as flava-c-local is: the comparison of Table D.1."""
    parent = _flava_c_local(scale)
    return replace(
        _renamed(parent, "clip-pmd", scale),
        model=scale.clip,
        objective=ClipObjectiveConfig(gather=Gather.LOCAL, ranks=scale.ranks),
        data=replace(parent.data, vocabulary=Vocabulary.CLIP),
    )


def _flava_c_beit(scale: Scale = PAPER) -> Run:
    """flava-c from a BEiT image encoder and an MLM text encoder."""
    return _from_stages(_flava_c(scale), "beit", scale)


def _flava_c_dino(scale: Scale = PAPER) -> Run:
    """flava-c from a DINO image encoder and an MLM text encoder."""
    return _from_stages(_flava_c(scale), "dino", scale)


def _flava_mm_beit(scale: Scale = PAPER) -> Run:
    """flava-mm from a BEiT image encoder and an MLM text encoder."""
    return _from_stages(flava_mm(scale), "beit", scale)


def _flava_mm_dino(scale: Scale = PAPER) -> Run:
    """flava-mm from a DINO image encoder and an MLM text encoder."""
    return _from_stages(flava_mm(scale), "dino", scale)


def _flava_beit(scale: Scale = PAPER) -> Run:
    """All five objectives from a BEiT image encoder and an MLM text encoder."""
    return _from_stages(scale.flava(), "beit", scale)


def _flava_dino(scale: Scale = PAPER) -> Run:
    """All five objectives from a DINO image encoder and an MLM text encoder: the headline model."""
    return _from_stages(scale.flava(), "dino", scale)


def _from_stages(parent: Run, method: str, scale: Scale) -> Run:
    """The parent, initialised from the unimodal encoders of the same size."""
    run = _renamed(parent, f"{parent.recipe.removesuffix(scale.suffix)}-{method}", scale)
    return replace(
        run,
        init=replace(
            parent.init,
            image=f"runs/image-{method}{scale.suffix}",
            text=f"runs/text-mlm{scale.suffix}",
        ),
    )


def _renamed(parent: Run, name: str, scale: Scale) -> Run:
    """The parent under another name, with a folder of its own."""
    recipe = f"{name}{scale.suffix}"
    return replace(parent, recipe=recipe, output_dir=Path("runs") / recipe)


def twin(column: Callable[[Scale], Run]) -> Callable[[], Run]:
    """The recipe of the same column at small scale."""

    def small() -> Run:
        return column(TINY)

    small.__doc__ = f"Small twin: {(column.__doc__ or '').splitlines()[0]}"
    return small


BOTH_SCALES: dict[str, Callable[..., Run]] = {
    "flava-c-local": _flava_c_local,
    "flava-c": _flava_c,
    "flava-c-beit": _flava_c_beit,
    "flava-c-dino": _flava_c_dino,
    "flava-mm": flava_mm,
    "flava-mm-beit": _flava_mm_beit,
    "flava-mm-dino": _flava_mm_dino,
    "flava-beit": _flava_beit,
    "flava-dino": _flava_dino,
    "clip-pmd": _clip_pmd,
}

RECIPES: dict[str, Callable[[], Run]] = {
    "flava": flava,
    **BOTH_SCALES,
    **{f"{name}-tiny": twin(column) for name, column in BOTH_SCALES.items()},
}
"""The small twin of column 10 is `flava-tiny`."""

COLUMNS = {
    "mim": 1,
    "mlm": 2,
    "flava-c-local": 3,
    "flava-c": 4,
    "flava-c-beit": 5,
    "flava-c-dino": 6,
    "flava-mm": 7,
    "flava-mm-beit": 8,
    "flava-mm-dino": 9,
    "flava": 10,
    "flava-beit": 11,
    "flava-dino": 12,
    "clip-pmd": 13,
}
"""Name of a recipe -> its column of Table C.1."""

RELEASED = "clip-400m"
"""Column 14: OpenAI's released CLIP, which is measured and not trained."""

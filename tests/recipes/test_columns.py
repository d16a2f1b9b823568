"""The columns of Table C.1: every number of the paper read back, and how they differ."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from flava.core.batch import ImageInputs, PairInputs, TextInputs, WholePairBatch
from flava.core.distributed import Gather
from flava.data.tokenizers import Vocabulary
from flava.evaluation.prompts import PROMPTS
from flava.methods import Validator
from flava.models import (
    Clip,
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
)
from flava.models.transformer import Activation, TransformerConfig
from flava.objectives import (
    ClipObjective,
    ClipObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
)
from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS
from flava.training.optimizer import learning_rate_factor
from flava.training.run import Run, differences
from tests.support import tiny_config

FROM_PAIRS = [name for name, column in COLUMNS.items() if 3 <= column <= 13]
CONTRAST = [name for name, column in COLUMNS.items() if column in (3, 4, 5, 6, 13)]
MULTIMODAL = ["flava-mm", "flava-mm-beit", "flava-mm-dino"]
WHOLE = ["flava", "flava-beit", "flava-dino"]
SCALES = ["", "-tiny"]


def recipe(name: str) -> Run:
    run = RECIPES[name]()
    assert run.recipe == name
    return run


def test_every_column_from_3_to_13_has_a_recipe_and_a_twin() -> None:
    assert sorted(COLUMNS.values()) == list(range(1, 14))
    assert len(FROM_PAIRS) == 11
    for name in FROM_PAIRS:
        for suffix in SCALES:
            assert recipe(name + suffix).output_dir.as_posix() == f"runs/{name}{suffix}"


# Table A.1


@pytest.mark.parametrize("name", FROM_PAIRS)
def test_table_a_1(name: str) -> None:
    run = recipe(name)
    assert {s.batch_size * run.accumulate for s in run.data.sources.values()} == {8192}
    optimizer = run.optimizer
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
    assert optimizer.weight_decay == 0.1
    assert optimizer.lr == 1e-3
    assert run.schedule.warmup_steps == 10_000
    # Then half a cosine to zero: half way down in the middle, nothing left at the end.
    middle = (10_000 + run.max_steps) // 2
    factors = [learning_rate_factor(run.schedule, s, run.max_steps) for s in (9_999, middle)]
    assert factors == pytest.approx([1.0, 0.5], abs=1e-4)
    assert learning_rate_factor(run.schedule, run.max_steps, run.max_steps) == 0


# Table A.2


@pytest.mark.parametrize("name", WHOLE)
def test_table_a_2(name: str) -> None:
    run = recipe(name)
    assert run.data.weights == {"pairs": 0.70, "images": 0.15, "text": 0.15}
    assert run.max_steps == 214_286


@pytest.mark.parametrize("name", FROM_PAIRS)
def test_pmd_is_drawn_150_000_times(name: str) -> None:
    run = recipe(name)
    weights = run.data.weights
    share = weights["pairs"] / sum(weights.values())
    assert round(run.max_steps * share) == 150_000
    if name not in WHOLE:
        assert list(weights) == ["pairs"]
        assert run.max_steps == 150_000


@pytest.mark.parametrize("name", WHOLE)
def test_texts_alone_are_packed_as_by_the_text_encoders_protocol(name: str) -> None:
    """From the same shards, to the same length; a twin's glosses are samples of their own."""
    ours, theirs = recipe(name).data, RECIPES["text-mlm"]().data
    assert ours.text is not None
    assert theirs.text is not None
    assert ours.text.shards == theirs.text.shards
    assert (ours.pack_sentences, ours.text_max_length) == (True, 512)
    assert (theirs.pack_sentences, theirs.text_max_length) == (True, 512)
    assert not recipe(f"{name}-tiny").data.pack_sentences


# Section B.1


@pytest.mark.parametrize("name", FROM_PAIRS)
def test_the_best_is_chosen_by_imagenet_every_8000_updates(name: str) -> None:
    run = recipe(name)
    assert run.validator is Validator.IMAGENET
    assert run.validate_every == run.checkpoint_every == 8_000
    assert run.validation_tolerance == 0
    prompts = PROMPTS["imagenet"]
    assert (len(prompts.classes), len(prompts.templates)) == (1000, 80)


@pytest.mark.parametrize("name", FROM_PAIRS)
def test_gradients_are_not_clipped(name: str) -> None:
    assert recipe(name).optimizer.max_grad_norm == math.inf


@pytest.mark.parametrize("name", [n for n in FROM_PAIRS if n != "clip-pmd"])
def test_the_papers_model(name: str) -> None:
    model = recipe(name).model
    assert isinstance(model, FlavaConfig)
    encoders: list[TransformerConfig] = [model.image, model.text, model.multimodal]
    assert [each.width for each in encoders] == [768] * 3
    assert [each.heads for each in encoders] == [12] * 3
    assert [each.mlp_width for each in encoders] == [3072] * 3
    assert [each.depth for each in encoders] == [12, 12, 6]
    assert (model.image.image_size, model.image.patch_size) == (224, 16)
    assert model.text.vocabulary_size == 30_522
    assert model.projection_width == 512
    assert model.codebook.codes == 8192
    data = recipe(name).data
    assert (data.image.image_size, data.image.codebook_size) == (224, 112)
    assert data.pair_max_length == 77
    assert data.mask_probability == 0.15
    assert data.patch_mask_fraction == 75 / 196


def test_clips_model_is_vit_b_16() -> None:
    """Table 20 of Radford et al. 2021; Table D.1 of the paper."""
    model = recipe("clip-pmd").model
    assert isinstance(model, ClipConfig)
    assert (model.image.width, model.image.depth, model.image.heads) == (768, 12, 12)
    assert (model.image.image_size, model.image.patch_size) == (224, 16)
    assert (model.text.width, model.text.depth, model.text.heads) == (512, 12, 8)
    assert model.text.max_length == 77
    assert model.text.vocabulary_size == 49_152 + 256  # merges and bytes, as OpenAI counts them
    assert model.projection_width == 512
    assert model.image.activation is model.text.activation is Activation.QUICK_GELU


# What is trained


@pytest.mark.parametrize("suffix", SCALES)
def test_the_losses_of_each_column(suffix: str) -> None:
    for name in FROM_PAIRS:
        run = recipe(name + suffix)
        assert run.data.mask_pairs == (name not in CONTRAST)
        kinds = ["pairs", "images", "text"] if name in WHOLE else ["pairs"]
        assert list(run.data.sources) == kinds
        assert isinstance(run.objective, FlavaObjectiveConfig | ClipObjectiveConfig)
        local = name in ("flava-c-local", "clip-pmd")
        assert run.objective.gather is (Gather.LOCAL if local else Gather.GLOBAL)


@pytest.mark.parametrize("suffix", SCALES)
def test_what_each_column_starts_from(suffix: str) -> None:
    for name in FROM_PAIRS:
        init = recipe(name + suffix).init
        if method := next((m for m in ("beit", "dino") if name.endswith(m)), None):
            assert init.image == f"runs/image-{method}{suffix}"
            assert init.text == f"runs/text-mlm{suffix}"
        else:
            assert (init.image, init.text) == (None, None)
        codebook = "shipped:codebook-tiny" if suffix else "runs/codebook"
        assert init.codebook == (None if name in CONTRAST else codebook)


@pytest.mark.parametrize("suffix", SCALES)
@pytest.mark.parametrize(
    ("name", "parent", "differing"),
    [
        ("flava-c-local", "flava-c", {"objective"}),
        ("flava-c-beit", "flava-c", {"init"}),
        ("flava-c-dino", "flava-c-beit", {"init"}),
        ("flava-mm", "flava-c", {"data", "init"}),
        ("flava-mm-beit", "flava-mm", {"init"}),
        ("flava", "flava-mm", {"data"}),
        ("flava-dino", "flava", {"init"}),
        ("clip-pmd", "flava-c-local", {"model", "objective", "data"}),
    ],
)
def test_columns_that_are_compared_differ_in_what_is_compared_alone(
    name: str, parent: str, differing: set[str], suffix: str
) -> None:
    found = differences(recipe(parent + suffix), recipe(name + suffix))
    assert {line.split(":")[0].split(".")[0] for line in found} - {"recipe"} == differing


@pytest.mark.parametrize("suffix", SCALES)
def test_a_twin_sees_as_many_pairs_in_every_column(suffix: str) -> None:
    seen = set()
    for name in FROM_PAIRS:
        run = recipe(name + suffix)
        weights = run.data.weights
        seen.add(round(run.max_steps * weights["pairs"] / sum(weights.values())))
    assert len(seen) == 1


# Table D.1


@pytest.mark.parametrize("suffix", SCALES)
def test_clip_and_flavas_encoders_are_trained_alike(suffix: str) -> None:
    """The same data but for its tokens, optimiser, schedule and updates."""
    ours, theirs = recipe("flava-c-local" + suffix), recipe("clip-pmd" + suffix)
    assert replace(theirs.data, vocabulary=Vocabulary.BERT) == ours.data
    differing = {"recipe", "output_dir", "model", "objective", "data"}
    for name in {f.name for f in fields(Run)} - differing:
        assert getattr(ours, name) == getattr(theirs, name), name


def test_clip_and_flavas_encoders_have_the_same_loss() -> None:
    """Of the same features. FLAVA's bound on the scale is the same, rounded to four digits."""
    image, text = (normalize(each, dim=1) for each in torch.randn(2, 6, 8))
    ours, theirs = recipe("flava-c-local").objective, recipe("clip-pmd").objective
    assert isinstance(ours, FlavaObjectiveConfig)
    assert isinstance(theirs, ClipObjectiveConfig)
    losses = []
    for objective in (
        FlavaObjective(ours, Flava(tiny_config())),
        ClipObjective(theirs, tiny_clip()),
    ):
        model: Any = objective.model
        model.encode_image, model.encode_text = (lambda *_: image), (lambda *_: text)
        model.logit_scale.data.fill_(2.0)
        losses.append(objective(batch())["gc"].loss)
        model.logit_scale.data.fill_(9.0)
        objective.after_step(1)
        assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-4)
    assert losses[0] == losses[1]


def tiny_clip() -> Clip:
    shape: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    image, text = ClipImageConfig(image_size=8, patch_size=4, **shape), ClipTextConfig(**shape)
    return Clip(ClipConfig(image=image, text=text))


def batch() -> WholePairBatch:
    ids = torch.ones(6, 3, dtype=torch.long)
    return WholePairBatch(
        keys=tuple("abcdef"),
        inputs=PairInputs(
            image=ImageInputs(pixels=torch.zeros(6, 3, 8, 8)),
            text=TextInputs(input_ids=ids, attention_mask=ids.bool()),
        ),
    )


def test_the_twins_encoders_are_as_large_as_each_other() -> None:
    """The image encoders; the text encoders in the paper's proportion of 512 to 768."""
    ours, theirs = recipe("flava-c-local-tiny").model, recipe("clip-pmd-tiny").model
    assert isinstance(ours, FlavaConfig)
    assert isinstance(theirs, ClipConfig)
    for name in (f.name for f in fields(ImageConfig)):
        if name not in ("activation", "norm_eps"):
            assert getattr(ours.image, name) == getattr(theirs.image, name), name
    assert 3 * theirs.text.width == 2 * ours.text.width
    assert theirs.text.depth == ours.text.depth
    assert theirs.projection_width == ours.projection_width
    assert Clip(theirs).config == theirs

"""The recipes of one modality: the published numbers, their bad input, and runs that resume."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch, ImageBatch, TextBatch
from flava.core.precision import Precision
from flava.evaluation.validators import loss_validator
from flava.methods import Validator, method_of
from flava.models import (
    Codebook,
    CodebookConfig,
    ImageConfig,
    MaskedImageConfig,
    MaskedTextConfig,
    MaskedTextModel,
    TextConfig,
)
from flava.objectives import CodebookObjectiveConfig, MaskedObjective, MaskedObjectiveConfig
from flava.recipes import RECIPES
from flava.recipes.start import _validation_batches, start
from flava.training.checkpoint import save_checkpoint
from flava.training.initialization import InitConfig
from flava.training.launch import Interrupted
from flava.training.optimizer import learning_rate_factor
from flava.training.run import RUN, Run
from tests.recipes.test_resume import assert_same, interrupting
from tests.support import random_texts, tiny_config, tiny_model
from tests.tiny_runs import CODEBOOK, figures, flava_data, flava_run

TINY = ("mim-tiny", "mlm-tiny", "text-mlm-tiny", "image-beit-tiny")
PAPER = ("mim", "mlm", "text-mlm", "image-beit", "codebook")


def optimiser(run: Run) -> dict[str, float]:
    return {
        "lr": run.optimizer.lr,
        "beta1": run.optimizer.beta1,
        "beta2": run.optimizer.beta2,
        "weight_decay": run.optimizer.weight_decay,
        "warmup": run.schedule.warmup_steps,
        "updates": run.max_steps,
    }


def rate(run: Run, step: int) -> float:
    return run.optimizer.lr * learning_rate_factor(run.schedule, step, run.max_steps)


@pytest.mark.parametrize("name", ["mim", "mlm"])
def test_columns_1_and_2_have_table_a1s_numbers(name):
    run = RECIPES[name]()
    assert optimiser(run) == {
        "lr": 1e-3,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.1,
        "warmup": 10_000,
        "updates": 150_000,
    }
    (source,) = run.data.sources.values()
    assert (source.batch_size, source.shards) == (8192, ("data/pmd/*/*.tar",))
    assert list(run.data.sources) == ["images" if name == "mim" else "text"]
    assert run.data.mask_probability == 0.15
    assert run.data.patch_mask_fraction * 196 == pytest.approx(75)
    half = 10_000 + 70_000
    assert rate(run, half) == pytest.approx(0.5e-3)


def test_text_mlm_has_robertas_numbers_with_the_papers_changes():
    run = RECIPES["text-mlm"]()
    assert optimiser(run) == {
        "lr": 5e-4,
        "beta1": 0.9,
        "beta2": 0.98,
        "weight_decay": 0.01,
        "warmup": 10_000,
        "updates": 125_000,
    }
    assert (run.optimizer.eps, run.optimizer.max_grad_norm) == (1e-6, math.inf)
    assert run.data.text is not None
    assert run.data.text.batch_size == 2048
    assert run.data.text.shards == ("root:ccnews/*.jsonl", "root:bookcorpus/*.jsonl")
    assert (run.data.text_max_length, run.data.pack_sentences) == (512, True)
    assert rate(run, 10_000 + 115_000 // 4) == pytest.approx(0.75 * 5e-4, rel=1e-4)
    assert rate(run, 125_000) == 0


def test_image_beit_has_beits_numbers():
    run = RECIPES["image-beit"]()
    assert optimiser(run) == {
        "lr": 1.5e-3,
        "beta1": 0.9,
        "beta2": 0.98,
        "weight_decay": 0.05,
        "warmup": 6_250,
        "updates": 500_000,
    }
    assert (run.optimizer.eps, run.optimizer.max_grad_norm) == (1e-8, 3.0)
    assert rate(run, 500_000) == pytest.approx(1e-5)
    assert isinstance(run.model, MaskedImageConfig)
    assert run.model.image == ImageConfig(drop_path=0.1)
    assert run.model.image.grid == 14
    assert run.data.images is not None
    assert (run.data.images.batch_size, run.data.images.shards) == (
        2048,
        ("root:imagenet-1k/*.tar",),
    )
    image = run.data.image
    assert (image.image_size, image.codebook_size, image.crop_scale) == (224, 112, (0.08, 1.0))
    assert (image.flip_probability, image.colour_jitter) == (0.5, 0.4)
    assert run.data.patch_mask_fraction * 196 == pytest.approx(75)


def test_codebook_has_dall_es_numbers():
    run = RECIPES["codebook"]()
    assert optimiser(run) == {
        "lr": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 1e-4,
        "warmup": 0,
        "updates": 3_000_000,
    }
    assert rate(run, 1_200_000) == rate(run, 2_999_999) == pytest.approx(1.25e-6)
    assert run.model == CodebookConfig(codes=8192, width=256, blocks=2, decoder_input_width=128)
    assert run.objective == CodebookObjectiveConfig(
        final_temperature=1 / 16, temperature_steps=150_000, kl_weight=6.6, kl_steps=5_000
    )
    assert run.data.images is not None
    assert run.data.images.batch_size == 512
    assert (run.data.image.codebook_size, run.data.image.grid) == (256, 32)


@pytest.mark.parametrize("name", (*TINY, *PAPER))
def test_every_recipe_is_a_run_of_its_name_that_a_file_holds(name):
    run = RECIPES[name]()
    assert (run.recipe, run.output_dir) == (name, Path("runs") / name)
    assert RUN.validate_json(RUN.dump_json(run)) == run


@pytest.mark.parametrize("name", TINY)
def test_a_twin_could_start_and_is_flava_tinys_part(name):
    run = RECIPES[name]()
    assert method_of(run.model).data_errors(run) + run.data.problems() == []
    parent: Any = RECIPES["flava-tiny"]().model
    if isinstance(run.model, MaskedTextConfig):
        assert run.model.text == parent.text
    elif isinstance(run.model, MaskedImageConfig):
        assert replace(run.model.image, drop_path=0.0) == parent.image
        assert run.model.codebook == parent.codebook


# Small runs


def text_run(folder: Path, **changes: Any) -> Run:
    """Packed texts, probed on the same shards."""
    data = flava_data(folder / "data")
    text = TextConfig(width=16, depth=1, heads=2, mlp_width=16, max_length=12)
    run = replace(
        flava_run(folder / "through", data, init=InitConfig()),
        model=MaskedTextConfig(text=text),
        objective=MaskedObjectiveConfig(),
        data=replace(data, pairs=None, images=None, pack_sentences=True),
        validator=Validator.LOSS,
        validation=(str(folder / "data" / "text.jsonl"),),
        validate_every=3,
    )
    return replace(run, **changes)


def image_run(folder: Path, **changes: Any) -> Run:
    data = flava_data(folder / "data")
    image = ImageConfig(
        image_size=16, patch_size=8, width=16, depth=2, heads=2, mlp_width=16, drop_path=0.3
    )
    augmented = replace(data.image, flip_probability=0.5, colour_jitter=0.4)
    run = replace(
        flava_run(folder / "through", data),
        model=MaskedImageConfig(image=image, codebook=CODEBOOK),
        objective=MaskedObjectiveConfig(),
        data=replace(data, pairs=None, text=None, image=augmented),
        init=InitConfig(codebook=str(save_checkpoint(folder, "codebook", Codebook(CODEBOOK)))),
        validator=Validator.LOSS,
        validation=(str(folder / "data" / "pairs.tar"),),
        validate_every=3,
    )
    return replace(run, **changes)


@pytest.mark.parametrize("make", [text_run, image_run])
@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, make, workers):
    through = make(tmp_path)
    through = replace(through, data=replace(through.data, workers=workers))
    start(through)
    parts = replace(through, output_dir=tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr("flava.training.trainer.Trainer.validate_and_save", interrupting(5))
        with pytest.raises(Interrupted):
            start(parts)
    torch.rand(3)
    start(replace(parts, resume=True))
    assert_same(through.output_dir, parts.output_dir)
    probes = [row for row in figures(parts.output_dir) if "lr" not in row]
    assert [row["step"] for row in probes] == [3, 6, 8]


def test_the_codebook_is_that_of_the_file_and_stays_so(tmp_path):
    run = image_run(tmp_path, max_steps=2)
    start(run)
    assert run.init.codebook is not None
    expected = load_pretrained(run.init.codebook).state_dict()
    trained = load_pretrained(run.output_dir).state_dict()
    assert all(torch.equal(trained[f"codebook.{n}"], value) for n, value in expected.items())


def test_every_rank_holds_out_all_batches(tmp_path, monkeypatch):
    run = image_run(tmp_path)
    alone = _validation_batches(run)
    monkeypatch.setattr("flava.core.distributed.rank", lambda: 1)
    monkeypatch.setattr("flava.core.distributed.world_size", lambda: 2)
    for batch, expected in zip(_validation_batches(run), alone, strict=True):
        assert isinstance(batch, ImageBatch)
        assert isinstance(expected, ImageBatch)
        assert batch.keys == expected.keys
        assert torch.equal(batch.pixels, expected.pixels)


def test_held_out_images_are_whole_and_always_the_same(tmp_path):
    run = image_run(tmp_path)
    first, second = _validation_batches(run), _validation_batches(run)
    plain = replace(run.data.image, flip_probability=0.0, colour_jitter=0.0)
    unjittered = _validation_batches(replace(run, data=replace(run.data, image=plain)))
    for ours, again, other in zip(first, second, unjittered, strict=True):
        assert isinstance(ours, ImageBatch)
        for batch in (again, other):
            assert isinstance(batch, ImageBatch)
            assert torch.equal(ours.pixels, batch.pixels)
            assert torch.equal(ours.patch_mask, batch.patch_mask)


def test_the_probe_is_the_objectives_loss_with_the_sign_changed():
    config = tiny_config()
    model = MaskedTextModel(MaskedTextConfig(text=config.text))
    whole = tiny_model().state_dict()
    model.load_state_dict({name: whole[name] for name in model.state_dict()})
    objective = MaskedObjective(model)
    batches: list[Batch] = [random_texts(config, [9, 7]), random_texts(config, [4, 6])]
    assert all(isinstance(batch, TextBatch) for batch in batches)
    found = loss_validator(objective, batches, Precision.FP32)(model, 0)
    losses = [objective(batch)["mlm"].loss.item() for batch in batches]
    assert next(iter(found)) == "mlm_log_likelihood"
    assert found["mlm_log_likelihood"] == pytest.approx(-sum(losses) / 2)
    assert 0 <= found["mlm_accuracy"] <= 1
    assert model.training


# Bad input


def test_every_mistake_is_listed_before_anything_is_written(tmp_path):
    run = image_run(tmp_path, validation=("nowhere.tar",))
    data = flava_data(tmp_path / "data")
    other = replace(run.data, pairs=data.pairs, image=replace(run.data.image, image_size=24))
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(run, data=other))
    for line in (
        "data.pairs is set, but masked image modelling is trained on images alone: leave it out",
        "data.image.image_size is 24",
        "validation: no file 'nowhere.tar'",
    ):
        assert line in str(error.value)
    assert not run.output_dir.exists()


def test_texts_longer_than_the_encoder_and_other_sources_are_named(tmp_path):
    run = text_run(tmp_path)
    data = replace(flava_data(tmp_path / "data"), pairs=None, text_max_length=13)
    other = replace(run, data=data)
    found = method_of(other.model).data_errors(other)
    assert found == [
        "data.images is set, but masked language modelling is trained on text alone: leave it out",
        "data.text_max_length is 13, more than model.text.max_length 12",
    ]


def test_masked_image_modelling_without_a_codebook_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"codebook is not set.*flava train codebook"):
        start(image_run(tmp_path, init=InitConfig()))


def test_data_that_is_not_there_is_named(tmp_path):
    run = RECIPES["text-mlm"]()
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(run, output_dir=tmp_path / "run"))
    for missing in ("data/ccnews/*.jsonl", "data/bookcorpus/*.jsonl", "data/ccnews-val/*.jsonl"):
        assert f"no file '{missing}'" in str(error.value)
    for built in ("ccnews", "bookcorpus", "ccnews-val"):
        assert f"--output data/{built} " in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_objective_of_another_model_and_a_validator_that_it_lacks_are_refused(tmp_path):
    run = text_run(tmp_path)
    with pytest.raises(ValueError, match="does not train a MaskedTextConfig"):
        replace(run, objective=CodebookObjectiveConfig())
    with pytest.raises(
        ValueError, match="validator is loss, which cannot measure a CodebookConfig: use none"
    ):
        replace(run, model=CODEBOOK, objective=CodebookObjectiveConfig())

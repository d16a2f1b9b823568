"""The recipes of DINO: the published numbers, the data that fits them, and runs that go on."""

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.precision import Precision
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader
from flava.data.multi_crop import CropConfig
from flava.methods import method_of
from flava.models import Dino, DinoConfig, Flava, FlavaConfig
from flava.objectives import DinoObjective, DinoObjectiveConfig, FlavaObjectiveConfig
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.recipes.tiny import STYLES
from flava.training.checkpoint import save_checkpoint
from flava.training.initialization import InitConfig, initialise
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig, ScheduleConfig, build_optimizer
from flava.training.run import Run
from flava.training.trainer import Trainer
from tests.data.shard_files import encoded, picture, write_tar
from tests.dino import dino_config, dino_model
from tests.support import tiny_config
from tests.tiny_runs import figures, flava_data, flava_run

PUBLISHED: dict[str, Any] = {
    "arch": "vit_base",
    "patch_size": 16,
    "out_dim": 65_536,
    "norm_last_layer": True,
    "momentum_teacher": 0.996,
    "warmup_teacher_temp": 0.04,
    "teacher_temp": 0.07,
    "warmup_teacher_temp_epochs": 50,
    "use_fp16": False,
    "weight_decay": 0.04,
    "weight_decay_end": 0.4,
    "clip_grad": 0.3,
    "batch_size_per_gpu": 32,
    "world_size": 32,
    "epochs": 400,
    "freeze_last_layer": 3,
    "lr": 0.00075,
    "warmup_epochs": 10,
    "min_lr": 2e-06,
    "drop_path_rate": 0.1,
    "global_crops_scale": (0.25, 1.0),
    "local_crops_scale": (0.05, 0.25),
    "local_crops_number": 10,
}
"""``dino_vitbase16_pretrain/args.txt``, which facebookresearch/dino's README links to."""

IMAGENET = 1_281_167
"""ImageNet-1k's training images."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A small run on a few images, through a frozen epoch and the warm-up of the temperature."""
    images = {f"i{n}.png": encoded(picture(n)) for n in range(7)}
    shard = write_tar(tmp_path / "images.tar", images)
    return Run(
        recipe="image-dino-tiny",
        output_dir=tmp_path / "through",
        max_steps=8,
        model=dino_config(drop_path=0.5),
        objective=DinoObjectiveConfig(epoch_steps=2, temperature_epochs=3, freeze_epochs=1),
        data=DataConfig(
            images=SourceConfig(shards=(str(shard),), weight=1.0, batch_size=3),
            crops=CropConfig(global_size=24, local_size=12, local_crops=2),
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=1e-2, final_weight_decay=0.4, clip_each=True),
        schedule=ScheduleConfig(warmup_steps=2),
        precision=Precision.FP32,
    )


# Numbers


def test_the_recipe_is_the_published_protocol() -> None:
    run, published = RECIPES["image-dino"](), PUBLISHED
    model, objective, data = run.model, run.objective, run.data
    assert isinstance(model, DinoConfig)
    assert isinstance(objective, DinoObjectiveConfig)
    assert data.images is not None
    assert data.crops is not None
    batch = published["batch_size_per_gpu"] * published["world_size"]
    epoch = IMAGENET // batch
    rate = published["lr"] * batch / 256
    assert (model.image.width, model.image.depth, model.image.heads) == (768, 12, 12)
    assert (model.image.image_size, model.image.mlp_width) == (224, 3072)
    assert model.image.patch_size == published["patch_size"]
    assert model.image.drop_path == published["drop_path_rate"]
    assert (model.head_width, model.bottleneck, model.outputs) == (2048, 256, published["out_dim"])
    assert data.images.batch_size * run.accumulate == batch
    assert data.images.shards == ("root:imagenet-1k/*.tar",)
    assert list(data.sources) == ["images"]
    assert (data.crops.global_size, data.crops.local_size) == (224, 96)
    assert data.crops.local_crops == published["local_crops_number"]
    assert data.crops.global_scale == published["global_crops_scale"]
    assert data.crops.local_scale == published["local_crops_scale"]
    assert run.max_steps == published["epochs"] * epoch
    assert objective.epoch_steps == epoch
    assert objective.freeze_epochs == published["freeze_last_layer"]
    assert objective.student_temperature == 0.1
    assert objective.center_momentum == 0.9
    assert objective.teacher_temperature == published["teacher_temp"]
    assert objective.first_teacher_temperature == published["warmup_teacher_temp"]
    assert objective.temperature_epochs == published["warmup_teacher_temp_epochs"]
    assert objective.teacher_momentum == published["momentum_teacher"]
    assert run.optimizer.lr == pytest.approx(rate)
    assert run.optimizer.lr * run.schedule.final_fraction == pytest.approx(published["min_lr"])
    assert run.schedule.warmup_steps == published["warmup_epochs"] * epoch
    assert run.optimizer.weight_decay == published["weight_decay"]
    assert run.optimizer.final_weight_decay == published["weight_decay_end"]
    assert (run.optimizer.max_grad_norm, run.optimizer.clip_each) == (published["clip_grad"], True)
    assert (run.optimizer.beta1, run.optimizer.beta2, run.optimizer.eps) == (0.9, 0.999, 1e-8)
    assert run.precision is Precision.FP32


def test_the_defaults_of_the_crops_are_those_of_the_published_code() -> None:
    """``main_dino.py``: two global crops of 224 pixels, eight local ones of 96."""
    config = CropConfig()
    assert (config.global_size, config.local_size, config.local_crops) == (224, 96, 8)
    assert (config.global_scale, config.local_scale) == ((0.4, 1.0), (0.05, 0.4))


def test_the_twin_trains_the_image_encoder_of_flava_tiny() -> None:
    tiny, flava = RECIPES["image-dino-tiny"]().model, RECIPES["flava-tiny"]().model
    assert isinstance(tiny, DinoConfig)
    assert isinstance(flava, FlavaConfig)
    assert replace(tiny.image, drop_path=0.0) == flava.image


@pytest.mark.parametrize("name", ["image-dino", "image-dino-tiny"])
def test_data_and_model_of_the_recipes_fit(name: str) -> None:
    assert method_of((run := RECIPES[name]()).model).data_errors(run) == []


# Runs


def test_a_run_trains_and_leaves_teacher_and_student(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizers: list[torch.optim.Optimizer] = []

    def built(*arguments: Any) -> torch.optim.Optimizer:
        optimizers.append(build_optimizer(*arguments))
        return optimizers[-1]

    monkeypatch.setattr("flava.training.trainer.build_optimizer", built)
    start(run)
    rows = [row for row in figures(run.output_dir) if "lr" in row]
    assert [row["step"] for row in rows] == list(range(1, 9))
    for row in rows:
        assert row["loss/total"] == pytest.approx(row["loss/entropy"] + row["loss/divergence"])
    model = load_pretrained(run.output_dir)
    assert isinstance(model, Dino)
    differ = [
        not torch.equal(model.get_parameter(name), theirs)
        for name, theirs in model.student.named_parameters()
    ]
    assert any(differ)
    decays = [g["weight_decay"] for g in optimizers[0].param_groups]
    assert 0.0 in decays
    assert max(decays) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(("workers", "stops"), [(0, (2, 5)), (1, (3,))])
def test_interrupted_and_resumed_equals_uninterrupted(run, tmp_path, monkeypatch, workers, stops):
    through = replace(run, data=replace(run.data, workers=workers))
    start(through)
    parts = replace(through, output_dir=tmp_path / "parts")
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "validate_and_save", interrupting(stop))
            with pytest.raises(Interrupted):
                start(parts)
        parts = replace(parts, resume=True)
        torch.rand(7)
    start(parts)
    assert figures(parts.output_dir) == figures(through.output_dir)
    ours, theirs = (load_pretrained(r.output_dir).state_dict() for r in (parts, through))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def interrupting(step: int) -> Callable[..., None]:
    """`Trainer.validate_and_save`, with Ctrl-C once it has looked at that step."""
    look = Trainer.validate_and_save

    def looks(self: Trainer, *arguments: Any) -> None:
        look(self, *arguments)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)

    return looks


def test_a_diverging_run_stops_with_the_samples_named(run: Run) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        start(replace(run, optimizer=OptimizerConfig(lr=1e30), max_non_finite=0))
    (evidence,) = run.output_dir.glob("non-finite-step-*.json")
    assert "i" in evidence.read_text()


def test_the_next_stage_takes_the_teachers_encoder(tmp_path: Path) -> None:
    """As columns 6, 9 and 12 do; drop path is a setting of training, and no misfit."""
    dino = dino_model(drop_path=0.1)
    checkpoint = save_checkpoint(tmp_path, "dino", dino)
    config = tiny_config()
    flava = Flava(replace(config, image=replace(dino.config.image, drop_path=0.0)))
    (taken,) = initialise(flava, InitConfig(image=str(checkpoint)))
    ours, student = flava.image_encoder.state_dict(), dino.student.image_encoder.state_dict()
    assert taken.tensors == len(ours)
    for name, teachers in dino.image_encoder.state_dict().items():
        assert torch.equal(ours[name], teachers)
        assert not torch.equal(ours[name], student[name])


def held_out(model: Dino, run: Run) -> dict[str, float]:
    """The mean terms on drawings and digits that are not trained on, at the final temperature."""
    assert isinstance(run.objective, DinoObjectiveConfig)
    shards = (f"embedded:pairs/{STYLES}-val.tar", "embedded:images/mnist-test.tar")
    images = SourceConfig(shards=shards, weight=1.0, batch_size=64)
    objective = DinoObjective(replace(run.objective, temperature_epochs=0), model.eval(), 1)
    with Loader(replace(run.data, images=images, workers=0), seed=1) as loader:
        terms = [objective(batch) for batch in islice(loader, 4)]
    return {name: sum(t[name].loss.item() for t in terms) / 4 for name in terms[0]}


@pytest.mark.slow
def test_the_tiny_recipe_lowers_its_loss_on_held_out_images(tmp_path: Path) -> None:
    """Seen after half of its updates: 5.08 to 2.77, the divergence 2.41 to 0.61."""
    run = replace(RECIPES["image-dino-tiny"](), output_dir=tmp_path / "run", max_steps=240)
    assert isinstance(run.model, DinoConfig)
    torch.manual_seed(run.seed)
    before = held_out(Dino(run.model), run)
    start(run)
    trained = load_pretrained(run.output_dir)
    assert isinstance(trained, Dino)
    after = held_out(trained, run)
    assert sum(after.values()) < sum(before.values()) - 1
    assert after["divergence"] < 0.4 * before["divergence"]
    assert 0.1 < after["entropy"] / math.log(run.model.outputs) < 0.9


# Mistakes


def data_errors(run: Run) -> list[str]:
    return method_of(run.model).data_errors(run)


def test_data_that_does_not_fit_is_named(run: Run, tmp_path: Path) -> None:
    pairs = flava_data(tmp_path / "data").pairs
    crops = CropConfig(global_size=36, local_size=10)
    found = data_errors(replace(run, data=replace(run.data, crops=crops, pairs=pairs)))
    assert found == [
        "data.pairs is set, but DINO is trained on images alone: leave it out",
        "data.crops.global_size is 36, model.image.image_size is 24: make them equal",
        "data.crops.local_size is 10: use a multiple of model.image.patch_size 6",
    ]
    assert data_errors(replace(run, data=replace(run.data, crops=None))) == [
        "data.crops is not set, and DINO is trained on them: give their sizes"
    ]


def test_crops_are_for_dino_alone(tmp_path: Path) -> None:
    data = replace(flava_data(tmp_path), crops=CropConfig())
    found = data_errors(flava_run(tmp_path / "run", data))
    assert "data.crops is set, which FLAVA does not read: leave it out" in found


def test_another_objective_and_its_own_mistakes_are_named(run: Run) -> None:
    with pytest.raises(ValueError, match="FlavaObjectiveConfig, which does not train a DinoConfig"):
        replace(run, objective=FlavaObjectiveConfig())
    with pytest.raises(
        ValueError, match=r"objective\.epoch_steps is 0: it should be greater than 0"
    ):
        replace(run, objective=DinoObjectiveConfig(epoch_steps=0))


def test_the_published_recipes_data_is_asked_for_before_anything_is_written(tmp_path) -> None:
    run = replace(RECIPES["image-dino"](), output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"data\.images\.shards.*data/imagenet-1k"):
        start(run)
    assert not run.output_dir.exists()

"""A method that no file of the package knows: a model, an objective and a row of the registry."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

import flava.methods
from flava.checkpoints.recognise import load_pretrained
from flava.cli.train import train
from flava.core.batch import Batch, ImageBatch
from flava.methods import METHODS, Method, MethodRun, Validator, method_of
from flava.models import FlavaConfig
from flava.models.config import Model, ModelConfig
from flava.objectives import CodebookObjectiveConfig, LossOutput
from flava.objectives.objective import ObjectiveConfig
from flava.recipes.start import start
from flava.training.run import Run
from flava.training.trainer_config import load_config
from tests.tiny_runs import codebook_run, figures, flava_data, rows


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(ModelConfig):
    width: PositiveInt = 4


class Autoencoder(Model):
    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.down, self.up = nn.Conv2d(3, config.width, 1), nn.Conv2d(config.width, 3, 1)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        return self.up(self.down(pixels))


@dataclass(frozen=True, kw_only=True)
class AutoencoderObjectiveConfig(ObjectiveConfig):
    weight: float = 1.0


class AutoencoderObjective:
    def __init__(self, config: AutoencoderObjectiveConfig, model: Autoencoder) -> None:
        self.config, self.model = config, model

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        assert isinstance(batch, ImageBatch)
        error = (self.model(batch.pixels) - batch.pixels).square().mean()
        return {"reconstruction": LossOutput(self.config.weight * error)}

    def after_step(self, step: int) -> None:
        """Nothing changes between steps."""


def at_least_two_images(run: MethodRun) -> list[str]:
    batch = run.data.sources["images"].batch_size
    return [f"data.images.batch_size is {batch}: use at least 2"] if batch < 2 else []


METHOD = Method(
    name="an autoencoder",
    model_config=AutoencoderConfig,
    model=Autoencoder,
    objective_config=AutoencoderObjectiveConfig,
    objective=lambda run, model: AutoencoderObjective(run.objective, model),
    sources=("images",),
    check_data=at_least_two_images,
    next_command="flava look-at",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(flava.methods, "METHODS", (*METHODS, METHOD))
    data = replace(flava_data(tmp_path / "data"), pairs=None, text=None)
    return codebook_run(
        tmp_path / "run",
        data=data,
        model=AutoencoderConfig(),
        objective=AutoencoderObjectiveConfig(weight=2.0),
        max_steps=2,
    )


def test_it_trains_saves_and_resumes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    start(replace(run, output_dir=run.output_dir.with_name("through"), max_steps=4))
    train(run)
    assert f"Next: flava look-at {run.output_dir}" in capsys.readouterr().out
    saved = json.loads((run.output_dir / "run.json").read_text())
    assert saved["model"] == {"kind": "AutoencoderConfig", "width": 4}
    assert saved["objective"] == {"kind": "AutoencoderObjectiveConfig", "weight": 2.0}
    assert load_config(run.output_dir / "run.json", Run) == run
    assert isinstance(load_pretrained(run.output_dir), Autoencoder)
    start(replace(run, resume=True, max_steps=4))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4]
    assert all("loss/reconstruction" in row for row in rows(run.output_dir))
    assert figures(run.output_dir) == figures(run.output_dir.with_name("through"))
    ours, through = (
        load_pretrained(folder).state_dict()
        for folder in (run.output_dir, run.output_dir.with_name("through"))
    )
    assert all(torch.equal(ours[name], through[name]) for name in through)


def test_its_errors_are_named_as_every_methods(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validator is embedded, which cannot measure a Auto"):
        replace(run, validator=Validator.EMBEDDED)
    with pytest.raises(ValueError, match="which does not train a AutoencoderConfig"):
        replace(run, objective=CodebookObjectiveConfig())
    with pytest.raises(ValueError, match="width is 0: it should be greater than 0"):
        AutoencoderConfig(width=0)
    assert run.data.images is not None
    alone = replace(run.data.images, batch_size=1)
    pairs = flava_data(tmp_path / "data").pairs
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(run, data=replace(run.data, images=alone, pairs=pairs)))
    for expected in (
        "data.pairs is set, but an autoencoder is trained on images alone: leave it out",
        "data.images.batch_size is 1: use at least 2",
    ):
        assert expected in str(error.value)
    assert not run.output_dir.exists()


def test_a_model_that_no_method_trains_is_refused() -> None:
    assert method_of(FlavaConfig()).name == "FLAVA"
    with pytest.raises(ValueError, match="no method trains a AutoencoderConfig: use one of Flava"):
        method_of(AutoencoderConfig())


def test_each_model_is_trained_by_one_method() -> None:
    configs = [method.model_config for method in METHODS]
    assert len(set(configs)) == len(configs)
    assert all(Validator.NONE in method.validators for method in METHODS)
    assert all(method.former_validator in method.validators for method in METHODS)

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.data.data_config import DataConfig, SourceConfig
from flava.data.transforms import ImageTransformConfig
from flava.recipes import RECIPES
from flava.recipes.tiny import flava_tiny
from flava.training.initialization import InitConfig
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import RUN, Run
from flava.training.trainer_config import differences, load_config, save_config
from tests.tiny_runs import CODEBOOK

RATES = st.floats(0, 1e9, exclude_min=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_named_as_it_is_listed_and_comes_back_from_its_file(tmp_path, recipe):
    run = RECIPES[recipe]()
    assert run.recipe == recipe
    save_config(run, tmp_path / "run.json")
    assert load_config(tmp_path / "run.json", Run) == run


@given(
    lr=RATES,
    clip=RATES | st.just(math.inf),
    path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    seed=st.integers(0, 2**63),
    source=st.none() | st.text(),
)
def test_any_run_comes_back_from_its_json(lr, clip, path, seed, source):
    optimizer = OptimizerConfig(lr=lr, max_grad_norm=clip)
    run = replace(
        flava_tiny(),
        optimizer=optimizer,
        output_dir=Path(path),
        seed=seed,
        init=InitConfig(image=source, codebook=source),
    )
    assert RUN.validate_json(RUN.dump_json(run)) == run


def written(folder: Path, **changes: Any) -> Path:
    """A recipe's file with some fields changed; "a.b" is the field b within a."""
    fields = json.loads(RUN.dump_json(flava_tiny()))
    for name, value in changes.items():
        *parents, last = name.split(".")
        inside = fields
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
    (folder / "run.json").write_text(json.dumps(fields))
    return folder / "run.json"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 3, "steps: Unexpected"),
        ("optimizer.learning_rate", 3, r"optimizer\.learning_rate: Unexpected"),
        ("data.pairs.size", 3, r"data\.pairs\.size: Unexpected"),
        ("max_steps", "ten", "max_steps: Input should be a valid integer"),
        ("data.workers", None, r"data\.workers: Input should be a valid integer"),
        ("data.pairs.shards", "x.tar", r"data\.pairs\.shards: Input should be a valid array"),
        ("precision", "fp8", "precision: Input should be 'bf16' or 'fp32'"),
        ("model.image.width", 7, r"image\.heads is 3, which does not divide image\.width 7"),
        ("optimizer.lr", -1, r"optimizer\.lr is -1: Input should be greater than 0"),
    ],
)
def test_a_mistake_in_a_file_is_an_error_that_names_the_field(tmp_path, name, value, expected):
    path = written(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=expected) as error:
        load_config(path, Run)
    assert str(path) in str(error.value)


def test_every_mistake_in_a_file_is_listed(tmp_path):
    path = written(tmp_path, max_steps="ten", seed=None, **{"data.workers": "many"})
    with pytest.raises(ValueError, match="not a run's configuration") as error:
        load_config(path, Run)
    named = {line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]}
    assert named == {"max_steps", "seed", "data.workers"}


def test_no_file_and_no_json_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run at .*: it holds no run\.json"):
        load_config(tmp_path / "run.json", Run)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not a run's configuration"):
        load_config(tmp_path / "run.json", Run)


def test_every_mistake_of_a_run_is_listed():
    with pytest.raises(ValueError, match="the run's configuration does not hold") as error:
        replace(
            flava_tiny(),
            max_steps=0,
            accumulate=-1,
            validate_every=0,
            checkpoint_every=0,
            seed=-2,
            model=CODEBOOK,
            init=replace(flava_tiny().init, image="runs/x"),
            optimizer=OptimizerConfig(lr=-1.0),
            schedule=ScheduleConfig(final_fraction=2.0),
            data=replace(
                flava_tiny().data,
                mask_probability=2.0,
                text=SourceConfig(shards=(), weight=-1.0, batch_size=0),
                image=ImageTransformConfig(image_size=50, codebook_size=48),
            ),
        )
    for expected in (
        "max_steps is 0: it should be greater than 0",
        "accumulate is -1",
        "validate_every is 0",
        "checkpoint_every is 0",
        "seed is -2: it should be greater than or equal to 0",
        "FlavaObjectiveConfig, which does not train a CodebookConfig",
        "init.image is runs/x, but a CodebookConfig has no such part: leave it out",
        "init.codebook is shipped:codebook-tiny, but a CodebookConfig has no such part",
        "optimizer.lr is -1.0: it should be greater than 0",
        "schedule.final_fraction is 2.0",
        "data.mask_probability is 2.0: it should be less than or equal to 1",
        "data.text.shards is (): ",
        "data.text.weight is -1.0: it should be greater than or equal to 0",
        "data.text.batch_size is 0: it should be greater than 0",
        "data.image.image_size is 50: use a multiple of the 6 patches a side",
    ):
        assert expected in str(error.value)


def test_a_file_that_cannot_be_written_keeps_what_it_held(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    save_config(flava_tiny(), path)
    before = path.read_bytes()
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"run\.json could not be written.*No space left"):
        save_config(replace(flava_tiny(), seed=5), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_differences_are_all_listed_but_those_free_on_resume():
    saved = flava_tiny()
    free: dict[str, Any] = {
        "output_dir": Path("elsewhere"),
        "resume": True,
        "max_steps": 7,
        "validate_every": 3,
        "validation_tolerance": 0.5,
        "checkpoint_every": 4,
    }
    assert differences(saved, replace(saved, **free)) == []
    data: DataConfig = replace(saved.data, text=None, mask_probability=0.3)
    optimizer = replace(saved.optimizer, lr=0.5)
    asked: Run = replace(saved, seed=1, data=data, optimizer=optimizer, **free)
    found = differences(saved, asked)
    assert {line.split(":")[0] for line in found} == {
        "seed",
        "data.mask_probability",
        "data.text.batch_size",
        "data.text.shards",
        "data.text.weight",
        "optimizer.lr",
    }
    assert f"optimizer.lr: {saved.optimizer.lr} in the saved run, 0.5 now" in found

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.data.loader import SourceConfig
from flava.data.transforms import ImageTransformConfig
from flava.model import Codebook, FlavaConfig
from flava.model.published.files import find_checkpoint
from flava.model.published.load import load_pretrained
from flava.model.published.own import build_model
from flava.recipes.start import load_codebook, misfits, start
from flava.training.checkpoint import save_checkpoint
from flava.training.run import Run
from tests.tiny_runs import CODEBOOK, codebook_run, flava_data, flava_run


@pytest.fixture
def run(tmp_path) -> Run:
    """One that could start, with a codebook of random weights."""
    codebook = save_checkpoint(tmp_path, "codebook", Codebook(CODEBOOK))
    return flava_run(tmp_path / "run", flava_data(tmp_path / "data"), codebook=str(codebook))


def geometry(run: Run, **changes: Any) -> Run:
    """The run with fields of its model's parts changed: text={"max_length": 9}."""
    assert isinstance(run.model, FlavaConfig)
    parts = {name: replace(getattr(run.model, name), **fields) for name, fields in changes.items()}
    return replace(run, model=replace(run.model, **parts))


def test_data_of_the_models_form_fits(run):
    assert misfits(run) == []
    assert misfits(geometry(run, text={"vocabulary_size": 40_000, "max_length": 512})) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"image": {"image_size": 32, "patch_size": 16}},
            ["data.image.image_size is 16, model.image.image_size is 32: make them equal"],
        ),
        (
            {"image": {"patch_size": 4}},
            [
                "data.image.codebook_size 16 makes 2 codes a side, the model has 4 patches a side: "
                "use codebook_size 32"
            ],
        ),
        (
            {"text": {"max_length": 11}},
            [
                "data.text_max_length is 12, more than model.text.max_length 11",
                "data.pair_max_length is 12, more than model.text.max_length 11",
            ],
        ),
        (
            {"text": {"vocabulary_size": 30_521}},
            ["model.text.vocabulary_size is 30521, fewer than the tokeniser's 30522 token ids"],
        ),
    ],
)
def test_each_misfit_of_data_and_model_is_named(run, changes, expected):
    assert misfits(geometry(run, **changes)) == expected


def test_a_limit_on_texts_that_are_not_read_is_no_misfit(run):
    data = replace(run.data, text=None, text_max_length=400)
    assert misfits(replace(run, data=data)) == []


def test_a_codebook_reads_images_alone(tmp_path):
    data = flava_data(tmp_path)
    found = misfits(codebook_run(tmp_path / "run", data=data))
    assert [line.split()[0] for line in found] == ["data.pairs", "data.text"]
    assert not misfits(codebook_run(tmp_path / "run", data=replace(data, pairs=None, text=None)))


def test_every_mistake_is_listed_before_anything_is_written(run):
    data = replace(
        run.data,
        text=SourceConfig(shards=("nowhere.jsonl",), weight=1.0, batch_size=0),
        image=ImageTransformConfig(image_size=24, codebook_size=24),
        mask_probability=2.0,
    )
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(geometry(run, text={"max_length": 10}), data=data))
    for expected in (
        "data.image.image_size is 24",
        "data.image.codebook_size 24",
        "data.text_max_length is 12",
        "data.pair_max_length is 12",
        "data.mask_probability = 2.0",
        "data.text.batch_size = 0",
        "no file 'nowhere.jsonl'",
    ):
        assert expected in str(error.value)
    assert not run.output_dir.exists()


# The codebook


def test_the_codebook_is_that_of_the_file_and_stays_so(run, monkeypatch):
    monkeypatch.setattr("flava.recipes.start.zero_shot_probe", lambda _: None)
    start(replace(run, max_steps=2))
    assert run.codebook is not None
    expected = load_pretrained(Path(run.codebook)).state_dict()
    trained = load_pretrained(run.output_dir).state_dict()
    for name, value in expected.items():
        assert torch.equal(trained[f"codebook.{name}"], value)


def test_a_codebooks_run_can_be_named_instead_of_its_checkpoint(run, tmp_path):
    images = replace(run.data, pairs=None, text=None)
    trained = codebook_run(tmp_path / "codebook-run", data=images, max_steps=1)
    start(trained)
    found = load_codebook(replace(run, codebook=str(trained.output_dir)))
    expected = load_pretrained(find_checkpoint(trained.output_dir)).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("codebook", "error", "expected"),
    [
        (None, ValueError, "codebook is not set.*flava train codebook-tiny.*--codebook"),
        ("nowhere/at-all", FileNotFoundError, "no checkpoint at nowhere/at-all"),
        ("shipped:nothing", FileNotFoundError, "no checkpoint at .*nothing"),
    ],
)
def test_a_missing_codebook_is_an_error(run, codebook, error, expected):
    with pytest.raises(error, match=expected):
        start(replace(run, codebook=codebook))
    assert not run.output_dir.exists()


def test_a_model_that_is_no_codebook_is_an_error(run, tmp_path):
    other = save_checkpoint(tmp_path, "flava", build_model(run.model))
    with pytest.raises(ValueError, match=r"flava holds a Flava: train one by `flava train codeb"):
        start(replace(run, codebook=str(other)))


def test_a_codebook_of_another_geometry_is_an_error(run, tmp_path):
    other = save_checkpoint(tmp_path, "other", Codebook(replace(CODEBOOK, codes=24)))
    with pytest.raises(ValueError, match=r"other has another geometry than model\.codebook") as e:
        start(replace(run, codebook=str(other)))
    assert "codes=24" in str(e.value)
    assert "codes=16" in str(e.value)

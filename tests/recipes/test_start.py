import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.data.data_config import SourceConfig
from flava.data.loader import Loader
from flava.data.tokenizers import Vocabulary
from flava.data.transforms import ImageTransformConfig
from flava.methods import Validator, method_of
from flava.models import Clip, ClipConfig, ClipImageConfig, ClipTextConfig, Codebook, FlavaConfig
from flava.objectives import ClipObjectiveConfig, FlavaObjective
from flava.recipes import RECIPES
from flava.recipes.start import start
from flava.training.checkpoint import save_checkpoint
from flava.training.initialization import InitConfig
from flava.training.run import Run
from tests.tiny_runs import CODEBOOK, codebook_run, flava_data, flava_run, rows


@pytest.fixture
def run(tmp_path) -> Run:
    """One that could start, with a codebook of random weights."""
    codebook = save_checkpoint(tmp_path, "codebook", Codebook(CODEBOOK))
    return flava_run(
        tmp_path / "run", flava_data(tmp_path / "data"), init=InitConfig(codebook=str(codebook))
    )


def geometry(run: Run, **changes: Any) -> Run:
    """The run with fields of its model's parts changed: text={"max_length": 9}."""
    assert isinstance(run.model, FlavaConfig)
    parts = {name: replace(getattr(run.model, name), **fields) for name, fields in changes.items()}
    return replace(run, model=replace(run.model, **parts))


def data_errors(run: Run) -> list[str]:
    return method_of(run.model).data_errors(run)


def test_data_of_the_models_form_fits(run):
    assert data_errors(run) == []
    assert data_errors(geometry(run, text={"vocabulary_size": 40_000, "max_length": 512})) == []


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
def test_each_field_of_the_data_that_does_not_fit_the_model_is_named(run, changes, expected):
    assert data_errors(geometry(run, **changes)) == expected


def test_a_limit_on_texts_that_are_not_read_is_no_error(run):
    data = replace(run.data, text=None, text_max_length=400)
    assert data_errors(replace(run, data=data)) == []


def test_a_codebook_reads_images_alone(tmp_path):
    data = flava_data(tmp_path)
    found = data_errors(codebook_run(tmp_path / "run", data=data))
    assert [line.split()[0] for line in found] == ["data.pairs", "data.text"]
    assert not data_errors(
        codebook_run(tmp_path / "run", data=replace(data, pairs=None, text=None))
    )


def test_every_mistake_is_listed_before_anything_is_written(run):
    data = replace(
        run.data,
        text=SourceConfig(shards=("nowhere.jsonl",), weight=1.0, batch_size=4),
        image=ImageTransformConfig(image_size=24, codebook_size=24),
        vocabulary=Vocabulary.CLIP,
    )
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(geometry(run, text={"max_length": 10}), data=data))
    for expected in (
        "data.image.image_size is 24",
        "data.image.codebook_size 24",
        "data.text_max_length is 12",
        "data.pair_max_length is 12",
        "data.vocabulary is clip",
        "data.mask_pairs is True, but CLIP's vocabulary has no [MASK]",
        "data.text.shards: no file 'nowhere.jsonl'",
    ):
        assert expected in str(error.value)
    assert not run.output_dir.exists()


# What a run needs, and what it leaves out


def test_clip_reads_whole_pairs_of_its_own_tokens(run):
    image, text = ClipImageConfig(image_size=24, patch_size=8), ClipTextConfig(max_length=10)
    clip = replace(
        run,
        model=ClipConfig(image=image, text=text),
        objective=ClipObjectiveConfig(),
        init=InitConfig(),
    )
    assert data_errors(clip) == [
        "data.images is set, but CLIP is trained on pairs alone: leave it out",
        "data.text is set, but CLIP is trained on pairs alone: leave it out",
        "data.mask_pairs is True, but CLIP is trained on whole pairs: set it to False",
        "data.text_max_length is 12, more than model.text.max_length 10",
        "data.pair_max_length is 12, more than model.text.max_length 10",
        "data.vocabulary is bert, but a ClipConfig reads clip's tokens: set it to clip",
        "data.image.image_size is 16, model.image.image_size is 24: make them equal",
    ]


def test_flava_reads_berts_tokens(run):
    data = replace(run.data, text=None, mask_pairs=False, vocabulary=Vocabulary.CLIP)
    assert data_errors(replace(run, data=data)) == [
        "data.vocabulary is clip, but a FlavaConfig reads bert's tokens: set it to bert"
    ]


def test_contrast_alone_needs_no_codes(run):
    """Neither a codebook nor a grid of codes that fits."""
    data = replace(
        run.data,
        images=None,
        text=None,
        mask_pairs=False,
        image=ImageTransformConfig(image_size=16, codebook_size=32),
    )
    assert data_errors(replace(run, data=data, init=InitConfig())) == []
    assert (
        len(data_errors(replace(run, data=replace(data, mask_pairs=True), init=InitConfig()))) == 2
    )


HEADS = {"mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head"}
CODEBOOK_PARTS = {"codebook.encoder", "codebook.decoder"}


@pytest.mark.parametrize(
    ("changes", "missing_parts"),
    [
        ({}, set()),
        ({"images": None, "text": None}, {"mim_head", "mlm_head"}),
        ({"images": None, "text": None, "mask_pairs": False}, HEADS | CODEBOOK_PARTS),
        ({"pairs": None, "images": None}, (HEADS - {"mlm_head"}) | CODEBOOK_PARTS),
    ],
    ids=["all", "pairs", "whole pairs", "text"],
)
def test_what_no_loss_reads_is_not_trained_and_is_said_to_be_absent(run, changes, missing_parts):
    """In the checkpoint too; and everything else that the losses read has a gradient."""
    run = replace(run, data=replace(run.data, **changes), max_steps=6)
    if "codebook.encoder" in missing_parts:
        run = replace(run, init=InitConfig())
    objective = method_of(run.model).build(run)
    assert isinstance(objective, FlavaObjective)
    assert objective.model.missing_parts == missing_parts
    with Loader(run.data, seed=0) as batches:
        for _ in range(12):
            torch.stack([t.loss for t in objective(next(batches)).values()]).sum().backward()
    read = {n.split(".")[0] for n, p in objective.model.named_parameters() if p.grad is not None}
    assert read & HEADS == HEADS - missing_parts
    start(run)
    assert load_pretrained(run.output_dir).missing_parts == missing_parts
    start(replace(run, resume=True, max_steps=8))
    assert load_pretrained(run.output_dir).missing_parts == missing_parts


def test_clip_is_trained_and_validated(run, monkeypatch, tmp_path):
    """From shards to a checkpoint; the validator is given CLIP's geometry."""
    validated = []
    monkeypatch.setattr("flava.recipes.start.embedded_validator", validated.append)
    transformer: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    model = ClipConfig(
        image=ClipImageConfig(image_size=16, patch_size=8, **transformer),
        text=ClipTextConfig(max_length=12, **transformer),
        projection_width=8,
    )
    data = replace(run.data, images=None, text=None, mask_pairs=False, vocabulary=Vocabulary.CLIP)
    clip = replace(
        run,
        model=model,
        objective=ClipObjectiveConfig(),
        data=data,
        init=InitConfig(),
        validator=Validator.EMBEDDED,
        output_dir=tmp_path / "clip",
        max_steps=3,
    )
    start(clip)
    trained = load_pretrained(clip.output_dir)
    assert isinstance(trained, Clip)
    assert trained.config == model
    assert validated == [model]
    assert [row["step"] for row in rows(clip.output_dir)] == [1, 2, 3]
    assert all("loss/gc" in row for row in rows(clip.output_dir))
    assert not (clip.output_dir / "init.json").exists()
    start(replace(clip, resume=True, max_steps=4))


# Other runs


def test_the_codebook_is_that_of_the_file_and_stays_so(run, capsys):
    start(replace(run, max_steps=2))
    assert run.init.codebook is not None
    expected = load_pretrained(Path(run.init.codebook)).state_dict()
    trained = load_pretrained(run.output_dir).state_dict()
    for name, value in expected.items():
        assert torch.equal(trained[f"codebook.{name}"], value)
    said = f"initialised: codebook: {len(expected)} tensors from {run.init.codebook}"
    assert said in capsys.readouterr().out
    (written,) = json.loads((run.output_dir / "init.json").read_text())
    assert written["tensors"] == len(expected)


def test_a_run_without_a_codebook_that_it_needs_is_an_error(run):
    with pytest.raises(ValueError, match=r"init\.codebook is not set.*flava train codebook-tiny"):
        start(replace(run, init=InitConfig()))
    assert not run.output_dir.exists()


@pytest.mark.parametrize("source", ["no/such/run", "shipped:nothing"])
@pytest.mark.parametrize("part", ["image", "text", "codebook"])
def test_a_missing_source_is_an_error(run, part, source):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*(no/such/run|nothing)"):
        start(replace(run, init=replace(run.init, **{part: source})))
    assert not run.output_dir.exists()


def test_a_source_of_another_geometry_is_an_error(run, tmp_path):
    other = save_checkpoint(tmp_path, "other", Codebook(replace(CODEBOOK, codes=24)))
    with pytest.raises(ValueError, match=r"codes is 24 there, 16 in model\.codebook"):
        start(replace(run, init=InitConfig(codebook=str(other))))
    assert not run.output_dir.exists()


def test_missing_stages_are_named_with_their_commands(run, tmp_path, monkeypatch):
    """All of them, beside the other mistakes; a stage that is there is none."""
    monkeypatch.chdir(tmp_path)
    init = InitConfig(image="runs/flava-tiny", text="runs/flava-mm", codebook="runs/codebook-tiny")
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(run, init=init, data=replace(run.data, vocabulary=Vocabulary.CLIP)))
    for expected in (
        "init.image: there is no checkpoint in runs/flava-tiny: run `flava train flava-tiny` first,"
        " or give --init.image",
        "`flava train flava-mm` first, or give --init.text",
        "`flava train codebook-tiny` first, or give --init.codebook",
        "data.vocabulary is clip",
    ):
        assert expected in str(error.value)
    save_checkpoint(Path("runs/codebook-tiny/checkpoints"), "last", Codebook(CODEBOOK))
    with pytest.raises(ValueError, match="the run cannot start") as error:
        start(replace(run, init=init))
    assert "init.codebook" not in str(error.value)


def test_every_stage_that_a_recipe_starts_from_has_a_recipe():
    for recipe in RECIPES.values():
        for source in recipe().init.given.values():
            name = source.removeprefix("runs/")
            if not source.startswith("shipped:"):
                assert RECIPES[name]().output_dir == Path(source)

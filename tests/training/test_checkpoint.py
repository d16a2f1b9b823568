import json
import pickle
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict_saver import save as torch_save
from torch.optim import AdamW

from flava.checkpoints.reading import find_checkpoint
from flava.checkpoints.recognise import load_pretrained
from flava.models import Codebook, Flava
from flava.training.checkpoint import (
    CheckpointWriter,
    TrainingProgress,
    delete_incomplete,
    load_progress,
    save_checkpoint,
    set_link,
)
from flava.training.state import _stored_tensors, restore_state
from tests.support import randomise, tiny_model
from tests.tiny_runs import CODEBOOK, content, folders
from tests.training.trainers import trained, trainer_of

MOMENTS = torch.arange(5.0)


def saved(folder: Path, name: str = "step-1", keep: int = 1) -> Path:
    """A checkpoint of a codebook that the link ``last`` stands for."""
    model = Codebook(CODEBOOK)
    writer = CheckpointWriter(folder, keep, timeout=60)
    progress = TrainingProgress(step=3, best=0.25)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with closing(writer):
        writer.write(name, model, weights, {"moments": MOMENTS}, progress, ["last"])
    return folder / name


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Every write beyond so many bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("make", [tiny_model, lambda: Codebook(CODEBOOK)])
def test_a_model_comes_back_bit_for_bit(tmp_path, make):
    model: Flava | Codebook = make()
    found = load_pretrained(save_checkpoint(tmp_path, "one", model))
    assert type(found) is type(model)
    assert found.config == model.config
    assert equal(found, model)
    assert not found.training


def test_the_weights_are_plain_safetensors(tmp_path):
    path = saved(tmp_path)
    names = Codebook(CODEBOOK).state_dict().keys()
    assert load_file(path / "model.safetensors").keys() == names


def test_what_is_written_is_what_was_when_writing_began(tmp_path):
    """Training goes on meanwhile, and changes the tensors in place."""
    model, moments = Codebook(CODEBOOK), torch.arange(5.0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    writer = CheckpointWriter(tmp_path, 1, timeout=60)
    with closing(writer):
        writer.write("step-1", model, weights, {"moments": moments}, TrainingProgress(), ["last"])
        moments.zero_()
        randomise(model)
    assert torch.equal(_stored_tensors(tmp_path / "last")["moments"], torch.arange(5.0))
    found = load_file(tmp_path / "last" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_the_state_comes_back(tmp_path):
    path = saved(tmp_path)
    assert load_progress(path) == TrainingProgress(step=3, best=0.25)
    assert torch.equal(_stored_tensors(path)["moments"], MOMENTS)


@pytest.mark.parametrize("content", [Path.cwd, {"step": 3}])
def test_a_state_of_more_than_tensors_is_refused_and_runs_no_code(tmp_path, content):
    path = saved(tmp_path) / "state" / ".metadata"
    if callable(content):
        path.write_bytes(pickle.dumps(content))
    else:
        torch_save({"moments": content}, checkpoint_id=path.parent)
    model = Codebook(CODEBOOK)
    with pytest.raises(ValueError, match=r"state is damaged .*(asks for|more than tensors)"):
        restore_state(tmp_path / "last", model, AdamW(model.parameters()))


# A disk that fills up


# The weights are 170 KB, the state 3 KB, the config 200 bytes.
@pytest.mark.parametrize("size", [50, 3_000, 100_000])
def test_a_full_disk_leaves_the_earlier_checkpoint_as_it_is(tmp_path, size):
    path = saved(tmp_path)
    before = content(path)
    with files_up_to(size), pytest.raises(OSError, match=r"step-2 could not be written") as error:
        saved(tmp_path, "step-2")
    assert "free some space" in str(error.value)
    assert content(path) == before
    assert folders(tmp_path) == {"step-1"}
    assert (tmp_path / "last").resolve() == path
    saved(tmp_path, "step-2")
    assert folders(tmp_path) == {"step-2"}


def test_a_model_that_cannot_be_written_is_an_error_that_names_the_folder(tmp_path):
    saved(tmp_path)
    before = content(tmp_path)
    with files_up_to(50), pytest.raises(OSError, match=r"step-2 could not be written"):
        save_checkpoint(tmp_path, "step-2", Codebook(CODEBOOK))
    assert content(tmp_path) == before


def test_the_rest_of_a_killed_save_is_no_part_of_the_next(tmp_path):
    rest = tmp_path / ".step-1.partial"
    rest.mkdir()
    (rest / "half").write_bytes(b"half")
    path = save_checkpoint(tmp_path, "step-1", Codebook(CODEBOOK))
    assert not (path / "half").exists()
    assert folders(tmp_path) == {"step-1"}


def test_a_folder_is_hidden_before_it_is_deleted(tmp_path, monkeypatch):
    """A kill in the middle must leave no half of a checkpoint that looks like one."""
    saved(tmp_path)
    monkeypatch.setattr("shutil.rmtree", lambda *_args, **_: None)
    saved(tmp_path, "step-2")
    assert folders(tmp_path) == {".step-1.dropped", "step-2"}
    monkeypatch.undo()
    delete_incomplete(tmp_path)
    assert folders(tmp_path) == {"step-2"}
    assert (tmp_path / "last").exists()


# Links


def test_what_no_link_stands_for_is_dropped(tmp_path):
    for number in range(1, 5):
        saved(tmp_path, f"step-{number}")
        if number == 2:
            set_link(tmp_path, "best", "step-2")
    assert folders(tmp_path) == {"step-2", "step-4"}
    for number in range(5, 13):
        saved(tmp_path, f"step-{number}", keep=3)
    assert folders(tmp_path) == {"step-2", "step-10", "step-11", "step-12"}
    saved(tmp_path, "step-13", keep=1)
    assert folders(tmp_path) == {"step-2", "step-13"}
    assert (tmp_path / "best").resolve().name == "step-2"
    assert (tmp_path / "last").resolve().name == "step-13"


def test_a_runs_folder_means_its_best_checkpoint_else_its_last(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    path = saved(checkpoints)
    assert find_checkpoint(tmp_path) == checkpoints / "last"
    assert find_checkpoint(path) == path
    save_checkpoint(checkpoints, "step-2", Codebook(CODEBOOK))
    set_link(checkpoints, "best", "step-2")
    assert find_checkpoint(tmp_path) == checkpoints / "best"


# What cannot be loaded


def test_a_path_without_a_checkpoint_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at") as error:
            load_pretrained(path)
        assert str(path) in str(error.value)


def test_a_missing_config_is_an_error(tmp_path):
    path = saved(tmp_path)
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json .* is missing"):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "model: "),
        (
            '{"model": {"kind": "CodebookConfig", "codes": "many", "width": 8}}',
            r"model\.CodebookConfig\.codes: ",
        ),
        (
            '{"model": {"kind": "CodebookConfig", "codes": 16, "depth": 8}}',
            r"model\.CodebookConfig\.depth: ",
        ),
    ],
)
def test_a_config_that_describes_no_model_is_an_error(tmp_path, text, expected):
    path = saved(tmp_path)
    (path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=rf"config\.json of .* does not describe a model:(.|\n)*{expected}"
    ):
        load_pretrained(path)


@pytest.mark.parametrize("size", [6, 500, 20_000, -1])
def test_truncated_weights_are_an_error(tmp_path, size):
    path = saved(tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_pretrained(path)


@pytest.mark.parametrize("size", [0, 6, 50, -1])
@pytest.mark.parametrize("name", ["state/.metadata", "state/__0_0.distcp", "progress.json"])
def test_a_truncated_state_is_an_error(run, name, size):
    trained(run)
    path = run.output_dir / "checkpoints" / "last" / name
    cut = len(path.read_bytes()) // 2 if size == -1 else size
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"{name.split('/')[0]} is damaged"):
        trainer_of(replace(run, resume=True))


def test_every_misfit_of_another_geometry_is_listed(tmp_path):
    model, path = Codebook(CODEBOOK), saved(tmp_path)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    del weights["encoder.input.bias"]
    weights["extra"] = torch.zeros(2)
    weights["encoder.output.weight"] = torch.zeros(5, 64, 1, 1)
    weights["decoder.input.bias"] = torch.zeros(7)
    save_file(weights, path / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit") as error:
        load_pretrained(path)
    assert set(str(error.value).splitlines()[1:]) == {
        "  missing: encoder.input.bias",
        "  unexpected: extra",
        "  encoder.output.weight is [5, 64, 1, 1] in the file, [16, 64, 1, 1] in the model",
        "  decoder.input.bias is [7] in the file, [8] in the model",
    }


def test_weights_beside_another_models_config_are_an_error(tmp_path):
    path = saved(tmp_path)
    other = save_checkpoint(tmp_path, "other", Codebook(replace(CODEBOOK, codes=24)))
    (path / "config.json").write_bytes((other / "config.json").read_bytes())
    assert json.loads((path / "config.json").read_text())["model"]["codes"] == 24
    with pytest.raises(ValueError, match=r"encoder\.output\.bias is \[16\] in the file, \[24\]"):
        load_pretrained(path)

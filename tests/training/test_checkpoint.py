import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flava.model import Codebook, Flava
from flava.model.published.files import find_checkpoint
from flava.model.published.load import load_pretrained
from flava.training.checkpoint import load_state, point, save_checkpoint
from tests.support import tiny_model
from tests.tiny_runs import CODEBOOK, content, folders

STATE = {"step": 3, "best": 0.25, "moments": torch.arange(5.0)}


def saved(folder: Path, name: str = "step-1") -> tuple[Codebook, Path]:
    model = Codebook(CODEBOOK)
    path = save_checkpoint(folder, name, model, STATE)
    point(folder, "last", name)
    return model, path


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
    model, path = saved(tmp_path)
    assert load_file(path / "model.safetensors").keys() == model.state_dict().keys()


def test_the_state_comes_back_and_runs_no_code(tmp_path):
    _, path = saved(tmp_path)
    found = load_state(path)
    assert (found["step"], found["best"]) == (3, 0.25)
    assert torch.equal(found["moments"], STATE["moments"])
    torch.save({"step": Path.cwd}, path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        load_state(path)


# A disk that fills up


# The weights are 170 KB, the state 2 KB, the config 200 bytes.
@pytest.mark.parametrize("size", [50, 100_000])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_part_of_the_new(tmp_path, size):
    model, path = saved(tmp_path)
    before = content(tmp_path)
    with files_up_to(size), pytest.raises(OSError, match=r"step-2 could not be written") as error:
        save_checkpoint(tmp_path, "step-2", Codebook(CODEBOOK), STATE)
    assert "free some space" in str(error.value)
    assert content(tmp_path) == before
    assert folders(tmp_path) == {"step-1"}
    assert equal(load_pretrained(path), model)


@pytest.mark.parametrize("fails", ["torch.save", "pathlib.Path.write_bytes"])
def test_whatever_cannot_be_written_is_an_error_that_names_the_folder(tmp_path, monkeypatch, fails):
    saved(tmp_path)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, full)
    with pytest.raises(OSError, match=r"step-2 could not be written.*No space left"):
        save_checkpoint(tmp_path, "step-2", Codebook(CODEBOOK), STATE)
    assert folders(tmp_path) == {"step-1"}


def test_torchs_own_error_on_a_full_disk_is_one_too(tmp_path):
    saved(tmp_path)
    big = {"moments": torch.zeros(100_000)}
    with files_up_to(300_000), pytest.raises(OSError, match=r"step-2 could not be written"):
        save_checkpoint(tmp_path, "step-2", Codebook(CODEBOOK), big)
    assert folders(tmp_path) == {"step-1"}


def test_the_rest_of_a_killed_save_is_no_part_of_the_next(tmp_path):
    rest = tmp_path / ".step-1.partial"
    rest.mkdir()
    (rest / "state.pt").write_bytes(b"half")
    path = save_checkpoint(tmp_path, "step-1", Codebook(CODEBOOK))
    assert not (path / "state.pt").exists()
    assert folders(tmp_path) == {"step-1"}


# Links


def test_what_no_link_stands_for_is_dropped(tmp_path):
    for number in range(1, 5):
        saved(tmp_path, f"step-{number}")
        if number == 2:
            point(tmp_path, "best", "step-2")
    assert folders(tmp_path) == {"step-2", "step-4"}
    assert (tmp_path / "best").resolve().name == "step-2"
    assert (tmp_path / "last").resolve().name == "step-4"


def test_a_runs_folder_means_its_best_checkpoint_else_its_last(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    _, path = saved(checkpoints)
    assert find_checkpoint(tmp_path) == checkpoints / "last"
    assert find_checkpoint(path) == path
    save_checkpoint(checkpoints, "step-2", Codebook(CODEBOOK))
    point(checkpoints, "best", "step-2")
    assert find_checkpoint(tmp_path) == checkpoints / "best"


# What cannot be loaded


def test_a_path_without_a_checkpoint_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no checkpoint at") as error:
            load_pretrained(path)
        assert str(path) in str(error.value)


def test_a_missing_config_is_an_error(tmp_path):
    _, path = saved(tmp_path)
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
    _, path = saved(tmp_path)
    (path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=rf"config\.json of .* does not describe a model:(.|\n)*{expected}"
    ):
        load_pretrained(path)


@pytest.mark.parametrize("size", [6, 500, 20_000, -1])
def test_truncated_weights_are_an_error(tmp_path, size):
    _, path = saved(tmp_path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_pretrained(path)


@pytest.mark.parametrize("size", [0, 6, 500, -1])
def test_a_truncated_state_is_an_error(tmp_path, size):
    _, path = saved(tmp_path)
    state = path / "state.pt"
    state.write_bytes(state.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        load_state(path)


def test_every_misfit_of_another_geometry_is_listed(tmp_path):
    model, path = saved(tmp_path)
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
    _, path = saved(tmp_path)
    other = save_checkpoint(tmp_path, "other", Codebook(replace(CODEBOOK, codes=24)))
    (path / "config.json").write_bytes((other / "config.json").read_bytes())
    assert json.loads((path / "config.json").read_text())["model"]["codes"] == 24
    with pytest.raises(ValueError, match=r"encoder\.output\.bias is \[16\] in the file, \[24\]"):
        load_pretrained(path)

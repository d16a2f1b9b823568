"""Hub ids, with the hub's client replaced at its boundary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from flava.checkpoints.native import write_model
from flava.checkpoints.reading import looks_like_hub_id
from flava.checkpoints.recognise import load_pretrained, read_checkpoint
from flava.models import Codebook
from tests.tiny_runs import CODEBOOK


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Callable[..., list[dict[str, Any]]]:
    """Let the hub hold some files, or answer with an error; returns what it is asked."""

    def holding(files: dict[str, bytes] | Exception) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def snapshot_download(repo_id: str, **options: Any) -> str:
            asked.append({"repo_id": repo_id, **options})
            if isinstance(files, Exception):
                raise files
            folder = tmp_path / "cache"
            folder.mkdir(exist_ok=True)
            for name, content in files.items():
                allowed = any(Path(name).match(p) for p in options["allow_patterns"])
                if allowed and "/" not in name:
                    (folder / name).write_bytes(content)
            return str(folder)

        monkeypatch.setattr("flava.checkpoints.reading.snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        return asked

    return holding


def files_of_a_model(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    write_model(Codebook(CODEBOOK), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_id_is_read_from_the_hub_without_its_pickles(hub, tmp_path):
    files = files_of_a_model(tmp_path / "there")
    asked = hub({**files, "pytorch_model.bin": b"a second copy", "onnx/config.json": b"{}"})
    assert isinstance(load_pretrained("someone/a-model.v2"), Codebook)
    assert [request["repo_id"] for request in asked] == ["someone/a-model.v2"]
    assert not (tmp_path / "cache" / "pytorch_model.bin").exists()


def test_pickles_are_taken_where_there_is_nothing_else(hub, tmp_path):
    files = files_of_a_model(tmp_path / "there")
    torch.save(load_pretrained(tmp_path / "there").state_dict(), tmp_path / "x.bin")
    del files["model.safetensors"]
    hub({**files, "pytorch_model.bin": (tmp_path / "x.bin").read_bytes()})
    assert isinstance(load_pretrained("someone/older"), Codebook)


def test_a_path_that_exists_goes_before_the_hub(hub, tmp_path):
    asked = hub({})
    files_of_a_model(tmp_path / "someone")
    (tmp_path / "someone" / "model").mkdir()
    (tmp_path / "someone" / "config.json").rename(tmp_path / "someone/model/config.json")
    weights = tmp_path / "someone" / "model.safetensors"
    weights.rename(tmp_path / "someone/model/model.safetensors")
    assert isinstance(load_pretrained("someone/model"), Codebook)
    assert not asked


@pytest.mark.parametrize("source", ["/abs/model", "./a/model", "../a/b", "a/b/c", "model", "~/a/b"])
def test_other_strings_are_paths(hub, source):
    asked = hub({})
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(source)
    assert not asked


def test_a_path_object_is_never_an_id(hub):
    asked = hub({})
    with pytest.raises(FileNotFoundError, match="no checkpoint at someone/model"):
        read_checkpoint(Path("someone/model"))
    assert not asked


@pytest.mark.parametrize("source", ["facebook/flava-full", "timm/vit_base.dino", "a/b"])
def test_ids(source):
    assert looks_like_hub_id(source)


RESPONSE = MagicMock(headers={})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RepositoryNotFoundError("no", response=RESPONSE), "check its spelling"),
        (GatedRepoError("no", response=RESPONSE), "accept its terms"),
        (LocalEntryNotFoundError("offline"), "hf download someone/model --local-dir"),
        (ConnectionError("no route"), "hf download someone/model --local-dir"),
    ],
)
def test_what_the_hub_does_not_give_is_explained(hub, error, expected):
    hub(error)
    with pytest.raises(FileNotFoundError, match=expected) as raised:
        load_pretrained("someone/model")
    assert "someone/model" in str(raised.value)


def test_a_model_without_weights(hub):
    hub({"README.md": b"soon"})
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_pretrained("someone/model")

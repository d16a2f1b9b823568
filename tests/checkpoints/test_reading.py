"""Weights from whatever files they are in, and what is said of those that cannot be read."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flava.checkpoints.native import write_model
from flava.checkpoints.recognise import LAYOUTS, build_model_from, load_pretrained, read_checkpoint
from flava.core.files import atomic_folder
from flava.models import Codebook, Flava
from tests.support import tiny_model
from tests.tiny_runs import CODEBOOK


def saved(folder: Path, model: Flava | Codebook | None = None) -> tuple[Path, dict[str, Tensor]]:
    """A model in our own layout, with its tensors."""
    model = tiny_model() if model is None else model
    folder.mkdir(parents=True)
    write_model(model, folder)
    return folder, model.state_dict()


def config_beside(folder: Path, source: Path) -> Path:
    """A folder with nothing but another's config."""
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


def equal(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[n], tensors[n]) for n in state)


def halves(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    names = sorted(tensors)
    return {n: tensors[n].contiguous() for n in names[::2]}, {n: tensors[n] for n in names[1::2]}


def shard(folder: Path, tensors: dict[str, Tensor], kind: str) -> Path:
    """The index of two shards, as transformers names and writes them."""
    stem, save = {
        "safetensors": ("model", save_file),
        "bin": ("pytorch_model", torch.save),
    }[kind]
    places: dict[str, str] = {}
    for number, half in enumerate(halves(tensors), 1):
        name = f"{stem}-{number:05}-of-00002.{kind}"
        save({n: t.contiguous() for n, t in half.items()}, folder / name)
        places |= dict.fromkeys(half, name)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


# Every kind of file gives the same bits


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path, kind):
    source, tensors = saved(tmp_path / "whole")
    folder = config_beside(tmp_path / "shards", source)
    index = shard(folder, tensors, kind)
    assert equal(load_pretrained(folder), tensors)
    assert equal(load_pretrained(index), tensors)


WRAPPERS = {
    "plain": lambda tensors: tensors,
    "beside an optimiser": lambda tensors: {"model": tensors, "optimizer": {"lr": 0.1}, "step": 3},
    "Lightning": lambda tensors: {"state_dict": tensors, "epoch": 2},
    "DistributedDataParallel": lambda tensors: {f"module.{n}": t for n, t in tensors.items()},
    "DINO": lambda tensors: {"teacher": tensors, "student": {}, "epoch": 1},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "any.pt", "any.pth", "any.ckpt", "any.pkl"])
def test_pickles_of_tensors(tmp_path, name, wrapper):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    folder = config_beside(tmp_path / "pickled", source)
    torch.save(WRAPPERS[wrapper](tensors), folder / name)
    for path in (folder, folder / name):
        assert equal(load_pretrained(path), tensors)


def test_the_older_pickle_of_torch(tmp_path):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    path = config_beside(tmp_path / "older", source) / "any.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert equal(load_pretrained(path), tensors)


def test_the_content_tells_and_not_the_name(tmp_path):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    path = config_beside(tmp_path / "odd", source) / "weights.pt"
    path.write_bytes((source / "model.safetensors").read_bytes())
    assert equal(load_pretrained(path), tensors)


def test_half_precision_becomes_single(tmp_path):
    folder, tensors = saved(tmp_path / "half", Codebook(CODEBOOK))
    rounded = {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}
    save_file(rounded, folder / "model.safetensors")
    model = load_pretrained(folder)
    assert equal(model, {name: tensor.float() for name, tensor in rounded.items()})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_integers_are_no_weights(tmp_path):
    folder, tensors = saved(tmp_path / "quantised", Codebook(CODEBOOK))
    save_file({n: t.to(torch.int8).contiguous() for n, t in tensors.items()}, folder / "x")
    (folder / "x").replace(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.input\.bias is of torch\.int8: only floating"):
        load_pretrained(folder)


def test_a_runs_folder_is_its_best_checkpoint_else_its_last(tmp_path):
    last, worst = saved(tmp_path / "run" / "checkpoints" / "last", Codebook(CODEBOOK))
    assert equal(load_pretrained(tmp_path / "run"), worst)
    _, best = saved(tmp_path / "run" / "checkpoints" / "best", Codebook(CODEBOOK))
    assert equal(load_pretrained(str(tmp_path / "run")), best)
    assert equal(load_pretrained(last), worst)


def test_what_was_read_tells_where_it_came_from(tmp_path):
    folder, tensors = saved(tmp_path / "run" / "checkpoints" / "last", Codebook(CODEBOOK))
    stored = read_checkpoint(tmp_path / "run")
    assert stored.origin == str(tmp_path / "run")
    assert stored.folder == folder
    assert stored.config == json.loads((folder / "config.json").read_text())
    assert stored.state_dict.keys() == tensors.keys()


def test_a_record_of_absent_parts_survives_our_own_layout(tmp_path):
    model = tiny_model()
    model.missing_parts = frozenset({"itm_head", "codebook.decoder"})
    found = load_pretrained(saved(tmp_path / "own", model)[0])
    assert isinstance(found, Flava)
    assert found.missing_parts == model.missing_parts
    with pytest.raises(ValueError, match=r"no weights for itm_head, codebook\.decoder, which"):
        found.require("mlm_head", "itm_head", "codebook.decoder")
    found.require("mlm_head", "mim_head")


# Bad input


class Payload:
    """A pickle that would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "x.pth", "x.ckpt", "x.pkl"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name, how):
    made, path = tmp_path / "made", tmp_path / name
    content = {"weight": torch.zeros(2), "payload": Payload(made)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"{name} is (refused|damaged)") as error:
        load_pretrained(path)
    assert "safetensors" in str(error.value) or how == "pickle"
    assert not made.exists()
    # The payload is a real one.
    pickle.loads(pickle.dumps(Payload(made)))
    assert made.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    """OpenAI publishes CLIP so."""
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(tmp_path / "ViT.pt"))
    with pytest.raises(ValueError, match=r"ViT\.pt is refused: it is a TorchScript archive"):
        load_pretrained(tmp_path / "ViT.pt")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "any.pt"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=rf"{name} is empty: copy or download it anew"):
            load_pretrained(path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_truncated_weights(tmp_path, kind, share):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    path = config_beside(tmp_path / "cut", source) / f"weights.{kind}"
    {"safetensors": save_file, "pt": torch.save}[kind](
        {n: t.contiguous() for n, t in tensors.items()}, path
    )
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"damaged") as error:
        load_pretrained(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"these are no weights", b"PK\3\4", b"\x80\x02."])
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "notes.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.pt is (refused|damaged)"):
        load_pretrained(path)


def test_a_pickle_without_tensors(tmp_path):
    torch.save({"optimizer": {"lr": 0.1}, "step": 3}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt holds no weights"):
        load_pretrained(tmp_path / "state.pt")


def test_missing_shards_are_all_named(tmp_path):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    folder = config_beside(tmp_path / "shards", source)
    shard(folder, tensors, "safetensors")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00001-of-00002.*, model-00002-of-00002"):
        load_pretrained(folder)


def test_a_shard_without_what_the_index_says(tmp_path):
    source, tensors = saved(tmp_path / "whole", Codebook(CODEBOOK))
    folder = config_beside(tmp_path / "shards", source)
    shard(folder, tensors, "safetensors")
    second = folder / "model-00002-of-00002.safetensors"
    held = load_file(second)
    lost = sorted(held)[:2]
    save_file({name: tensor for name, tensor in held.items() if name not in lost}, second)
    with pytest.raises(ValueError, match="do not hold") as error:
        load_pretrained(folder)
    assert str(error.value).splitlines()[1:] == [f"  {name}" for name in lost]


@pytest.mark.parametrize("name", ["../secret.pt", "/etc/passwd", "deeper/x.pt"])
def test_an_index_that_leads_out_of_its_folder(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": name}}))
    with pytest.raises(ValueError, match="names files outside its folder"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_config_that_is_no_json_object(tmp_path, content):
    folder, _ = saved(tmp_path / "own", Codebook(CODEBOOK))
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json (is damaged|holds no JSON object)"):
        load_pretrained(folder)


def test_several_files_of_weights(tmp_path):
    for name in ("a.pt", "b.ckpt"):
        torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"several files of weights \(a\.pt, b\.ckpt\): name one"):
        load_pretrained(tmp_path)


def test_an_unknown_layout_shows_names_and_lists_the_known(tmp_path):
    tensors = {f"layers.{i}.weight": torch.zeros(1) for i in range(20)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"20 entries: layers\.0\.weight, .*, \.\.\.") as error:
        build_model_from(read_checkpoint(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert all(layout.name in str(error.value) for layout in LAYOUTS)


def test_what_does_not_fit_our_own_layout_stands_in_one_error(tmp_path):
    folder, tensors = saved(tmp_path / "own", Codebook(CODEBOOK))
    changed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    del changed["encoder.input.bias"]
    changed["mystery"] = torch.zeros(1)
    changed["decoder.input.bias"] = torch.zeros(3)
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit") as error:
        load_pretrained(folder)
    assert str(error.value).splitlines()[1:] == [
        "  missing: encoder.input.bias",
        "  unexpected: mystery",
        "  decoder.input.bias is [3] in the file, [8] in the model",
    ]


# Folders written whole


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("full"), ValueError("refused")])
def test_a_folder_that_could_not_be_written_is_as_before(tmp_path, error):
    target = tmp_path / "there"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises((OSError, ValueError), match=str(error)), atomic_folder(target) as partial:
        (partial / "new").write_text("new")
        raise error
    assert [path.name for path in target.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_takes_the_place_of_what_was_there(tmp_path):
    target = tmp_path / "there"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_folder(target) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]

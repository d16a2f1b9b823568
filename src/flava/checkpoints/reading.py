"""Finds and reads checkpoint files, local or on the hub, without ever running code in them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from warnings import catch_warnings

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flava.checkpoints.layout import Checkpoint

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The names that transformers gives to weights; the first that a folder has is read."""

SUFFIXES = (".safetensors", (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
"""Without one of these names, a folder's only file with the first suffix is read, or else its only
file with one of the others."""

DECODER_FILE = "codebook_decoder.safetensors"
"""The codebook's decoder, which no published layout has. We write it beside the weights."""

INDEX_SUFFIX = ".index.json"

WRAPPERS = ("state_dict", "model", "module", "teacher")
"""Keys under which training scripts save the weights beside the optimizer. In DINO's files the
teacher is the model."""


def find_checkpoint(source: Path) -> Path:
    """The folder with the weights: the given one, or a run's best checkpoint, else its last.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: as `_find_weights`.
    """
    for folder in (source, source / "checkpoints" / "best", source / "checkpoints" / "last"):
        if folder.is_dir() and _find_weights(folder):
            return folder
    raise FileNotFoundError(
        f"no checkpoint at {source}: give a file of weights, a folder that holds "
        f"{WEIGHT_FILES[0]} or {WEIGHT_FILES[2]}, or a run's folder"
    )


def _find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of its shards; None if there is none.

    Raises:
        ValueError: there are several, and none has a name of `WEIGHT_FILES`.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    for suffix in SUFFIXES:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.name.endswith(suffix) and path.name != DECODER_FILE and path.is_file()
        )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder} holds several files of weights ({names}): name one of them")
        if found:
            return found[0]
    return None


def read_path(path: Path) -> Checkpoint:
    """The weights of a file or a folder, and the ``config.json`` beside them.

    Raises:
        FileNotFoundError: there are none, or shards are missing.
        ValueError: a file is damaged, or reading it would run code.
    """
    folder = path.parent if path.is_file() else find_checkpoint(path)
    weights = path if path.is_file() else _find_weights(folder)
    assert weights is not None
    return Checkpoint(
        origin=str(path),
        state_dict=(
            _read_shards(weights) if weights.name.endswith(INDEX_SUFFIX) else read_tensors(weights)
        ),
        config=read_json(folder / "config.json") if (folder / "config.json").is_file() else None,
        folder=folder,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: the file is damaged, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it is not JSON ({error}): copy it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged, it is not a JSON object: copy it anew")
    return content


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index file names.

    Raises:
        FileNotFoundError: shards are missing; all of them in one error.
        ValueError: the index or a shard is damaged, or a tensor is not in its shard.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(p, str) for p in weight_map.values()):
        raise ValueError(f"{index} has no weight_map of names to files: copy it anew")
    shards = sorted(set(weight_map.values()))
    # An index comes from somebody else: its paths must not lead out of the folder.
    if outside := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{index} names files outside its folder: {', '.join(outside)}")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"{index} names shards that are missing: {', '.join(missing)}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= read_tensors(index.parent / shard)
    if lost := sorted(weight_map.keys() - tensors.keys()):
        raise ValueError(
            f"{index} names entries that its shards do not hold:\n  " + "\n  ".join(lost)
        )
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file. Its content decides whether it is safetensors or a torch pickle.

    Raises:
        ValueError: it is empty or damaged, holds no weights, or reading it would run code.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise ValueError(f"{path} is empty: copy or download it anew")
    if path.suffix == ".safetensors" or start[8:] == b"{":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): copy or download it anew") from error
    return dict(_unwrap(_read_pickle(path), path))


def _read_pickle(path: Path) -> Any:
    """The content of a torch pickle; its unpickler allows only tensors and plain values.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    try:
        with catch_warnings(
            action="ignore"
        ):  # for TorchScript archives, torch recommends torch.jit.load
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is damaged, or holds objects whose reading runs code "
            f"({_shortened(error)}). Where you trust it, save its tensors alone, by safetensors or "
            "torch.save(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError) as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is refused: it is a TorchScript archive, which is a program. Where you "
                "trust it: torch.save(torch.jit.load(...).state_dict(), ...), and give that file"
            ) from error
        raise ValueError(
            f"{path} is damaged, or no file of weights ({_shortened(error)}): copy or download it "
            "anew"
        ) from error


def _shortened(error: Exception) -> str:
    """The part of torch's long error message that says what was found in the file."""
    text = str(error)
    found = [line for line in text.splitlines() if "Unsupported" in line or "GLOBAL" in line]
    return " ".join((found or text.splitlines() or ["unreadable"])[0].split())[:200]


def _unwrap(content: Any, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The state dict inside the object that a training script saved.

    Raises:
        ValueError: there is none.
    """
    while isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            # A script that saves the DistributedDataParallel wrapper adds this prefix to all keys.
            wrapped = all(name.startswith("module.") for name in tensors)
            return ((n.removeprefix("module.") if wrapped else n, t) for n, t in tensors.items())
        content = next((content[name] for name in WRAPPERS if name in content), None)
    raise ValueError(f"{path} holds no weights: no named tensors are in it")


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""organisation/name."""

SAFE_PATTERNS = ("*.json", "*.txt", "*.safetensors")
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def looks_like_hub_id(source: str) -> bool:
    return HUB_ID.fullmatch(source) is not None


def download(repo_id: str) -> Path:
    """Download a model from the hub into the local cache, and return its folder.

    Pickles are downloaded only if the repository has no safetensors file.

    Raises:
        FileNotFoundError: neither the hub nor the cache has it, or the hub cannot be reached.
    """
    try:
        patterns = [*SAFE_PATTERNS]
        folder = Path(snapshot_download(repo_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
        if _find_weights(folder) is None:
            patterns += PICKLE_PATTERNS
            snapshot_download(repo_id, allow_patterns=patterns, ignore_patterns=["*/*"])
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{repo_id} is gated: accept its terms at https://huggingface.co/{repo_id}, then log "
            "in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{repo_id} is no file or folder here, and no model on the Hugging Face hub that you "
            "may read: check its spelling, or for a private one log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{repo_id} is no file or folder here, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}): check the path or the connection, or download it where "
            f"there is one with `hf download {repo_id} --local-dir FOLDER` and give that folder"
        ) from error
    return folder


SHIPPED = Path(__file__).parents[1] / "recipes" / "weights"
"""Small weights that are part of the package, each trained by the recipe of its name."""

SHIPPED_PREFIX = "shipped:"


def locate(source: str) -> str | Path:
    """The folder of a ``shipped:NAME`` or of a run; a file or a hub id is returned as it is."""
    if source.startswith(SHIPPED_PREFIX):
        return find_checkpoint(SHIPPED / source.removeprefix(SHIPPED_PREFIX))
    path = Path(source).expanduser()
    return find_checkpoint(path) if path.is_dir() else source

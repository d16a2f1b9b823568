"""Finding and reading checkpoint files, here or on the hub, never by running their code."""

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

from flava.checkpoints.layout import Stored

NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The weights of a folder by the names that transformers gives them, best first."""

SUFFIXES = (".safetensors", (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
"""Else the only file of such a name: of the first kind, or of the second."""

DECODER = "codebook_decoder.safetensors"
"""The codebook's decoder, which no published layout holds, beside the weights that we write."""

INDEX = ".index.json"

WRAPPERS = ("state_dict", "model", "module", "teacher")
"""Where training scripts put the weights beside their optimiser; DINO's teacher is its model."""


def find_checkpoint(source: Path) -> Path:
    """The folder of weights that a path means: itself, or of a run the best one, else the last.

    Raises:
        FileNotFoundError: there is none.
        ValueError: as `weights_in`.
    """
    for folder in (source, source / "checkpoints" / "best", source / "checkpoints" / "last"):
        if folder.is_dir() and weights_in(folder):
            return folder
    raise FileNotFoundError(
        f"no checkpoint at {source}: give a file of weights, a folder that holds "
        f"{NAMES[0]} or {NAMES[2]}, or a run's folder"
    )


def weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder, or the index of their shards; None if there is none.

    Raises:
        ValueError: there are several, and none has a name that tells.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    for suffix in SUFFIXES:
        found = sorted(
            path
            for path in folder.iterdir()
            if path.name.endswith(suffix) and path.name != DECODER and path.is_file()
        )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{folder} holds several files of weights ({names}): name one of them")
        if found:
            return found[0]
    return None


def read_path(path: Path) -> Stored:
    """The weights of a file or a folder, and the ``config.json`` beside them.

    Raises:
        FileNotFoundError: there are none, or shards are missing.
        ValueError: a file is damaged, or would run code when read.
    """
    folder = path.parent if path.is_file() else find_checkpoint(path)
    weights = path if path.is_file() else weights_in(folder)
    assert weights is not None
    return Stored(
        origin=str(path),
        tensors=read_shards(weights) if weights.name.endswith(INDEX) else read_tensors(weights),
        config=read_json(folder / "config.json") if (folder / "config.json").is_file() else None,
        folder=folder,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError: it holds no JSON object."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object: copy it anew")
    return content


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of every shard that an index names.

    Raises:
        FileNotFoundError: shards are missing; all of them in one error.
        ValueError: the index or a shard is damaged, or a shard does not hold what it should.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise ValueError(f"{index} has no weight_map of names to files: copy it anew")
    shards = sorted(set(places.values()))
    # A path in an index that somebody else wrote must not lead out of its folder.
    if outside := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{index} names files outside its folder: {', '.join(outside)}")
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"{index} names shards that are missing: {', '.join(missing)}")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= read_tensors(index.parent / shard)
    if lost := sorted(places.keys() - tensors.keys()):
        raise ValueError(
            f"{index} names entries that its shards do not hold:\n  " + "\n  ".join(lost)
        )
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, told from its content: safetensors, or a pickle of torch's.

    Raises:
        ValueError: it is empty, damaged, holds no weights, or would run code when read.
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
    return dict(unwrap(read_pickle(path), path))


def read_pickle(path: Path) -> Any:
    """What a pickle of torch's holds, by an unpickler that knows tensors and plain values alone.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    try:
        with catch_warnings(action="ignore"):  # torch's advice to read a program as one
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it is damaged, or holds objects whose reading runs code "
            f"({shortened(error)}). Where you trust it, save its tensors alone, by safetensors or "
            "torch.save(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError) as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is refused: it is a TorchScript archive, which is a program. Where you "
                "trust it: torch.save(torch.jit.load(...).state_dict(), ...), and give that file"
            ) from error
        raise ValueError(
            f"{path} is damaged, or no file of weights ({shortened(error)}): copy or download it "
            "anew"
        ) from error


def shortened(error: Exception) -> str:
    """The part of torch's long advice that says what was found."""
    text = str(error)
    found = [line for line in text.splitlines() if "Unsupported" in line or "GLOBAL" in line]
    return " ".join((found or text.splitlines() or ["unreadable"])[0].split())[:200]


def unwrap(content: Any, path: Path) -> Iterator[tuple[str, Tensor]]:
    """The named tensors within what a training script saved.

    Raises:
        ValueError: there are none.
    """
    while isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            # DistributedDataParallel's prefix, where a script saved the wrapper.
            whole = all(name.startswith("module.") for name in tensors)
            return ((n.removeprefix("module.") if whole else n, t) for n, t in tensors.items())
        content = next((content[name] for name in WRAPPERS if name in content), None)
    raise ValueError(f"{path} holds no weights: no named tensors are in it")


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""organisation/name."""

SAFE = ("*.json", "*.txt", "*.safetensors")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def looks_like_hub_id(source: str) -> bool:
    return HUB_ID.fullmatch(source) is not None


def download(repo_id: str) -> Path:
    """The hub's files of a model in the local cache: pickles only where there is nothing safer.

    Raises:
        FileNotFoundError: neither the hub nor the cache has it, or the hub is out of reach.
    """
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[*SAFE], ignore_patterns=["*/*"]))
        if weights_in(folder) is None:
            patterns = [*SAFE, *PICKLED]
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
"""Small weights that come with the package, each made by the recipe of its name."""


PREFIX = "shipped:"


def locate(source: str) -> str | Path:
    """The checkpoint that a source means; a hub's id as it is."""
    if source.startswith(PREFIX):
        return find_checkpoint(SHIPPED / source.removeprefix(PREFIX))
    path = Path(source).expanduser()
    return find_checkpoint(path) if path.is_dir() else source

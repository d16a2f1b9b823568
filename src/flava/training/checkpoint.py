"""Checkpoints: a folder with the model in safetensors, its geometry, and the state to go on from.

A checkpoint is written beside the others under a temporary name and renamed when it is whole, so a
run that is killed at any moment, or whose disk fills up, keeps its last good one. ``last`` and
``best`` are links to the folders they stand for.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from flava.model import (
    Classifier,
    ClassifierConfig,
    Codebook,
    CodebookConfig,
    Flava,
    FlavaConfig,
)
from flava.training.files import explain

Model = Flava | Codebook | Classifier
ModelConfig = FlavaConfig | CodebookConfig | ClassifierConfig
MODELS = {FlavaConfig: Flava, CodebookConfig: Codebook, ClassifierConfig: Classifier}


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What ``config.json`` beside the weights holds."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: ModelConfig


MODEL_FILE = TypeAdapter(ModelFile)


def build_model(config: ModelConfig) -> Model:
    """A model of that geometry with initial weights."""
    return MODELS[type(config)](config)


def save_checkpoint(
    folder: Path, name: str, model: Model, state: dict[str, Any] | None = None
) -> Path:
    """Write ``folder/name`` as a whole or not at all, and return it.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    target, partial = folder / name, folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        config = MODEL_FILE.dump_json(ModelFile(model=model.config), indent=2)
        (partial / "config.json").write_bytes(config + b"\n")
        if state is not None:
            torch.save(state, partial / "state.pt")
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as errors of their own.
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"the checkpoint {target} could not be written ({error}): free some space there. "
            "Earlier checkpoints are untouched"
        ) from error
    return target


def point(folder: Path, link: str, name: str) -> None:
    """Let ``folder/link`` stand for ``folder/name``, atomically; drop what no link stands for."""
    fresh = folder / f".{link}.partial"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(folder / link)
    linked = {path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in linked:
            shutil.rmtree(path)


def load_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds besides the model.

    Raises:
        FileNotFoundError: the checkpoint was made to be used, not to be gone on from.
        ValueError: the file is damaged.
    """
    path = folder / "state.pt"
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it anew, or train again in another --output-dir"
        ) from error


def find_checkpoint(source: Path) -> Path:
    """The checkpoint that a path means: itself, or of a run the best one, else the last.

    Raises:
        FileNotFoundError: there is none.
    """
    candidates = (source, source / "checkpoints" / "best", source / "checkpoints" / "last")
    for folder in candidates:
        if (folder / "model.safetensors").is_file():
            return folder
    raise FileNotFoundError(
        f"no checkpoint at {source}: give a run's folder or a checkpoint's, which holds "
        "model.safetensors and config.json"
    )


def load_model(source: Path) -> Model:
    """The model of a checkpoint's or a run's folder, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or its weights do not fit its config; every misfit is listed.
    """
    folder = find_checkpoint(source)
    path = folder / "config.json"
    try:
        config = MODEL_FILE.validate_json(path.read_bytes()).model
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing: the checkpoint is incomplete") from error
    except ValidationError as error:
        raise ValueError(f"{path} does not describe a model:{explain(error)}") from error
    model = build_model(config)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model from a safetensors file of exactly its parameters.

    Raises:
        ValueError: the file is damaged, or entries are missing, unexpected or of another shape; all
            of them in one error.
    """
    try:
        saved = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it anew, or go back to another checkpoint"
        ) from error
    wanted = model.state_dict()
    misfits = [f"missing: {name}" for name in sorted(wanted.keys() - saved.keys())]
    misfits += [f"unexpected: {name}" for name in sorted(saved.keys() - wanted.keys())]
    misfits += [
        f"{name}: {list(saved[name].shape)} in the file, {list(wanted[name].shape)} in the model"
        for name in wanted.keys() & saved.keys()
        if saved[name].shape != wanted[name].shape
    ]
    if misfits:
        raise ValueError(
            f"the weights in {path} are of another geometry than the model:\n  "
            + "\n  ".join(misfits)
        )
    model.load_state_dict(saved)

"""Our own layout: ``config.json`` with the geometry, ``model.safetensors`` with our names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from flava.checkpoints.layout import Layout, Stored, fill, unfilled
from flava.core.files import explain_errors
from flava.core.unions import TaggedUnion
from flava.methods import models
from flava.models import Classifier, ClassifierConfig, Codebook, Flava
from flava.models.config import Model, ModelConfig


def stored_models() -> dict[type[ModelConfig], type[Model]]:
    """The models that this layout holds: those that are pretrained or fine-tuned."""
    return {**models(), ClassifierConfig: Classifier}


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What ``config.json`` beside the weights holds."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[ModelConfig, TaggedUnion(stored_models)]
    missing_parts: Annotated[
        tuple[str, ...], Field(validation_alias=AliasChoices("missing_parts", "absent"))
    ] = ()
    """As `Flava.missing_parts` and `Codebook.missing_parts`; no other parts can be missing. Earlier
    versions called the field "absent"."""


def write_model(model: Model, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write both files into a folder that is there.

    ``weights`` are what to write for the model's own, such as a copy of them.
    """
    state = model.state_dict() if weights is None else weights
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / "model.safetensors")
    missing_parts = tuple(sorted(missing_parts_of(model)))
    file = ModelFile(model=model.config, missing_parts=missing_parts)
    config = TypeAdapter(ModelFile).dump_json(file, indent=2)
    (folder / "config.json").write_bytes(config + b"\n")


def fill_own(model: nn.Module, stored: Stored) -> None:
    """Fill a model from a checkpoint that holds exactly its parameters; errors as `fill`."""
    fill(model, stored.tensors, {n: [n] for n in model.state_dict()}, origin=stored.origin)


def matches(stored: Stored) -> bool:
    if stored.config is not None and isinstance(stored.config.get("model"), dict):
        return True
    # The config is missing: claim the checkpoint all the same, so that the error says so.
    return any(
        name.startswith(
            ("image_encoder.blocks.", "text_encoder.blocks.", "encoder.groups.", "features.")
        )
        for name in stored.tensors
    )


def build(stored: Stored) -> Model:
    file = _read_config(stored)
    model = unfilled(lambda: stored_models()[type(file.model)](file.model))
    restore_own(model, stored)
    return model.eval()


def restore_own(model: Model, stored: Stored) -> None:
    """Fill a model from a checkpoint of its geometry, whose config tells which parts are missing.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is incomplete or damaged, or does not fit.
    """
    fill_own(model, stored)
    missing_parts = _read_config(stored).missing_parts
    for module, prefix in _modules_with_missing_parts(model):
        names = (name for name in missing_parts if name.startswith(prefix))
        module.missing_parts = frozenset(name.removeprefix(prefix) for name in names)


def missing_parts_of(model: nn.Module) -> frozenset[str]:
    """The parts that a model and its codebook lack, or have at initial values only."""
    return frozenset(
        prefix + name
        for module, prefix in _modules_with_missing_parts(model)
        for name in module.missing_parts
    )


def _modules_with_missing_parts(model: nn.Module) -> Iterator[tuple[Flava | Codebook, str]]:
    """The modules that may lack parts, each with the prefix of its parameters' names."""
    for name, module in model.named_modules():
        if isinstance(module, Flava | Codebook):
            yield module, f"{name}." if name else ""


def _read_config(stored: Stored) -> ModelFile:
    """Raises:
    FileNotFoundError: there is no config.json.
    ValueError: it does not describe a model of ours.
    """
    if stored.config is None:
        raise FileNotFoundError(
            f"the config.json beside the weights of {stored.origin} is missing: the checkpoint is "
            "incomplete"
        )
    try:
        return TypeAdapter(ModelFile).validate_python(stored.config)
    except ValidationError as error:
        raise ValueError(
            f"the config.json of {stored.origin} does not describe a model:{explain_errors(error)}"
        ) from error


LAYOUTS = (Layout(name="flava", matches=matches, build=build),)

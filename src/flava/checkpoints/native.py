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
from flava.models.classifier import Classifier, ClassifierConfig
from flava.models.clip import Clip, ClipConfig
from flava.models.codebook import Codebook, CodebookConfig
from flava.models.dino import Dino, DinoConfig
from flava.models.flava import Flava, FlavaConfig
from flava.models.unimodal import (
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
)

OwnModel = Flava | Codebook | Classifier | Clip | MaskedImageModel | MaskedTextModel | Dino
OwnConfig = (
    FlavaConfig
    | CodebookConfig
    | ClassifierConfig
    | ClipConfig
    | MaskedImageConfig
    | MaskedTextConfig
    | DinoConfig
)
MODELS = {
    FlavaConfig: Flava,
    CodebookConfig: Codebook,
    ClassifierConfig: Classifier,
    ClipConfig: Clip,
    MaskedImageConfig: MaskedImageModel,
    MaskedTextConfig: MaskedTextModel,
    DinoConfig: Dino,
}


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What ``config.json`` beside the weights holds."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[OwnConfig, TaggedUnion()]
    missing_parts: Annotated[
        tuple[str, ...], Field(validation_alias=AliasChoices("missing_parts", "absent"))
    ] = ()
    """As `Flava.missing_parts` and `Codebook.missing_parts`; nothing else is ever lacking. Earlier
    versions called it "absent"."""


MODEL_FILE = TypeAdapter(ModelFile)


def build_model(config: OwnConfig) -> OwnModel:
    """A model of that geometry with initial weights."""
    return MODELS[type(config)](config)


def write_model(model: OwnModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write both files into a folder that is there.

    ``weights`` are what to write for the model's own, such as a copy of them.
    """
    state = model.state_dict() if weights is None else weights
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / "model.safetensors")
    missing_parts = tuple(sorted(missing_parts_of(model)))
    config = MODEL_FILE.dump_json(
        ModelFile(model=model.config, missing_parts=missing_parts), indent=2
    )
    (folder / "config.json").write_bytes(config + b"\n")


def fill_own(model: nn.Module, stored: Stored) -> None:
    """Fill a model from exactly its parameters; errors as `strict.fill`."""
    fill(model, stored.tensors, {n: [n] for n in model.state_dict()}, origin=stored.origin)


def matches(stored: Stored) -> bool:
    if stored.config is not None and isinstance(stored.config.get("model"), dict):
        return True
    # Without its config, so that the error can say that this is what is missing.
    return any(
        name.startswith(
            ("image_encoder.blocks.", "text_encoder.blocks.", "encoder.groups.", "features.")
        )
        for name in stored.tensors
    )


def build(stored: Stored) -> OwnModel:
    file = described(stored)
    model = unfilled(lambda: build_model(file.model))
    restore_own(model, stored)
    return model.eval()


def restore_own(model: OwnModel, stored: Stored) -> None:
    """Fill a model from a checkpoint of its geometry, which tells what of it is absent.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is incomplete or damaged, or does not fit.
    """
    fill_own(model, stored)
    missing_parts = described(stored).missing_parts
    for module, prefix in that_may_lack(model):
        names = (name for name in missing_parts if name.startswith(prefix))
        module.missing_parts = frozenset(name.removeprefix(prefix) for name in names)


def missing_parts_of(model: nn.Module) -> frozenset[str]:
    """What a model and its codebook say that they lack."""
    return frozenset(
        prefix + name for module, prefix in that_may_lack(model) for name in module.missing_parts
    )


def that_may_lack(model: nn.Module) -> Iterator[tuple[Flava | Codebook, str]]:
    """The modules that may lack parts, each with what stands before the names of its own."""
    for name, module in model.named_modules():
        if isinstance(module, Flava | Codebook):
            yield module, f"{name}." if name else ""


def described(stored: Stored) -> ModelFile:
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
        return MODEL_FILE.validate_python(stored.config)
    except ValidationError as error:
        raise ValueError(
            f"the config.json of {stored.origin} does not describe a model:{explain_errors(error)}"
        ) from error


LAYOUTS = (Layout(name="flava", matches=matches, build=build),)

"""The checkpoint layout of this package: the trainer, the fine-tuner and `flava convert` write it.

``config.json`` holds the configuration under "model", by which the layout is recognised, and the
parts that the weights lack; ``model.safetensors`` holds the state dict as it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from flava.checkpoints.layout import Checkpoint, Layout, empty_model, load_weights
from flava.core.files import explain_errors
from flava.core.unions import TaggedUnion
from flava.models import Codebook, Flava
from flava.models.config import Model, ModelConfig, model_classes


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The content of ``config.json`` beside the weights."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[ModelConfig, TaggedUnion(model_classes)]
    missing_parts: Annotated[
        tuple[str, ...], Field(validation_alias=AliasChoices("missing_parts", "absent"))
    ] = ()
    """As `Flava.missing_parts` and `Codebook.missing_parts`; no other module can lack anything.
    Earlier versions called the field "absent"."""


def write_model(model: Model, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` into an existing folder.

    ``weights``, if given, are written instead of the model's own, such as a copy on the CPU.
    """
    state = model.state_dict() if weights is None else weights
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / "model.safetensors")
    missing_parts = tuple(sorted(missing_parts_of(model)))
    file = ModelFile(model=model.config, missing_parts=missing_parts)
    config = TypeAdapter(ModelFile).dump_json(file, indent=2)
    (folder / "config.json").write_bytes(config + b"\n")


def fill_own(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint in our own layout, strictly; errors as `layout.load_weights`."""
    keys = {n: [n] for n in model.state_dict()}
    load_weights(model, checkpoint.state_dict, keys, origin=checkpoint.origin)


def _matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.config is not None and isinstance(checkpoint.config.get("model"), dict):
        return True
    # A checkpoint without its config is recognised too: the error then says what is missing.
    return any(
        name.startswith(
            ("image_encoder.blocks.", "text_encoder.blocks.", "encoder.groups.", "features.")
        )
        for name in checkpoint.state_dict
    )


def _build(checkpoint: Checkpoint) -> Model:
    file = _read_config(checkpoint)
    model = empty_model(lambda: model_classes()[type(file.model)](file.model))
    restore_own(model, checkpoint)
    return model.eval()


def restore_own(model: Model, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a model of the same configuration, its missing parts too.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is incomplete or damaged, or does not fit.
    """
    fill_own(model, checkpoint)
    missing_parts = _read_config(checkpoint).missing_parts
    for module, prefix in _modules_with_missing_parts(model):
        names = (name for name in missing_parts if name.startswith(prefix))
        module.missing_parts = frozenset(name.removeprefix(prefix) for name in names)


def missing_parts_of(model: nn.Module) -> frozenset[str]:
    """The missing parts of a model and of its codebook."""
    return frozenset(
        prefix + name
        for module, prefix in _modules_with_missing_parts(model)
        for name in module.missing_parts
    )


def _modules_with_missing_parts(model: nn.Module) -> Iterator[tuple[Flava | Codebook, str]]:
    """The modules that may lack parts, each with the prefix of its keys in the model."""
    for name, module in model.named_modules():
        if isinstance(module, Flava | Codebook):
            yield module, f"{name}." if name else ""


def _read_config(checkpoint: Checkpoint) -> ModelFile:
    """The checked content of the ``config.json`` of a checkpoint.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it does not describe a model of ours.
    """
    if checkpoint.config is None:
        raise FileNotFoundError(
            f"the config.json beside the weights of {checkpoint.origin} is missing: the checkpoint "
            "is incomplete"
        )
    try:
        return TypeAdapter(ModelFile).validate_python(checkpoint.config)
    except ValidationError as error:
        raise ValueError(
            f"the config.json of {checkpoint.origin} does not describe a model:"
            f"{explain_errors(error)}"
        ) from error


LAYOUTS = (Layout(name="flava", matches=_matches, build=_build),)

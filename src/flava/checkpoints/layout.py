"""Defines what a checkpoint layout is, and how its key mappings fill and export a model.

A key mapping is a list of regular expressions that turn the key of a parameter of ours into the
key of a published state dict. It serves both directions. Two things differ everywhere: we hold
query, key and value as one matrix, ``qkv``; and published models hold the bias of a prediction
head under two keys, the head's own and its decoder's, which are one tensor.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a checkpoint as it was read, before its layout is known."""

    origin: str
    """What the user gave, for error messages."""
    state_dict: Mapping[str, Tensor]
    """The tensors under the keys of the file."""
    config: Mapping[str, Any] | None = None
    """The ``config.json`` beside the weights, if there is one."""
    folder: Path | None = None
    """The folder that may hold the files of a tokeniser or an image processor."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One published way to name the tensors of a model."""

    name: str
    """As a user would call it, such as "Hugging Face FlavaForPreTraining"."""
    matches: Callable[[Checkpoint], bool]
    """Whether keys and config are of this layout. It is cheap and raises no error."""
    build: Callable[[Checkpoint], nn.Module]
    """The model with these weights, in evaluation mode, its geometry read from config or tensors.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape (all of them in one error),
            or the published model computes something that ours cannot (with the reason).
    """


ModuleT = TypeVar("ModuleT", bound=nn.Module)

KeyMapping = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""(pattern in our key, replacement), applied in this order."""

PublishedKeys = Mapping[str, Sequence[str]]
"""Our key -> the published keys whose tensors, concatenated along dimension 0, are our tensor."""


class SkipInitialization(TorchFunctionMode):
    """Turns the functions of `torch.nn.init` into no-ops.

    On the meta device they would draw nothing, but import torch's compiler, which takes 0.8 s.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **given)


def empty_model(make: Callable[[], ModuleT]) -> ModuleT:
    """A model on the CPU with uninitialised weights: drawing a base model's takes seconds."""
    with torch.device("meta"), SkipInitialization():
        model = make()
    return model.to_empty(device="cpu")


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    keys: PublishedKeys,
    *,
    origin: str,
    ignored: Collection[str] = (),
) -> None:
    """Copy published tensors into a model, strictly; parameters that ``keys`` lacks stay.

    ``ignored`` are keys that may be in ``state_dict`` and are not read.

    Raises:
        ValueError: tensors are missing, unexpected, of another shape, or not floating point; all
            of them in one error.
    """
    ours = model.state_dict()
    wanted = {key for parts in keys.values() for key in parts}
    problems = [f"missing: {key}" for key in sorted(wanted - state_dict.keys())]
    problems += [f"unexpected: {key}" for key in sorted(state_dict.keys() - wanted - set(ignored))]
    complete = {n: parts for n, parts in keys.items() if all(key in state_dict for key in parts)}
    problems += [
        f"{key} is of {state_dict[key].dtype}: only floating point can be read"
        for key in sorted(wanted & state_dict.keys())
        if not state_dict[key].is_floating_point()
    ]
    problems += [
        f"{key} is {list(state_dict[key].shape)} in the file, {list(part.shape)} in the model"
        for name, parts in complete.items()
        for key, part in zip(parts, _row_parts(ours[name], len(parts)), strict=True)
        if state_dict[key].shape != part.shape
    ]
    raise_if_any(problems, f"the weights of {origin} do not fit")
    with torch.no_grad():
        for name, parts in complete.items():
            tensors = [state_dict[key] for key in parts]
            ours[name].copy_(torch.cat(tensors) if len(tensors) > 1 else tensors[0])


def _row_parts(tensor: Tensor, count: int) -> Sequence[Tensor]:
    """Equal pieces of a tensor's rows; the tensor itself for one, since a scalar has no rows."""
    return tensor.chunk(count) if count > 1 else (tensor,)


def rename(key: str, mapping: KeyMapping) -> str:
    """The published key of one of our parameters; that of ``qkv`` still contains "qkv"."""
    for pattern, replacement in mapping:
        key = re.sub(pattern, replacement, key)
    return key


def published_keys(
    ours: Iterable[str],
    mapping: KeyMapping,
    parts: Callable[[str], list[str]] = lambda key: [key],
) -> PublishedKeys:
    """The published keys of each of our keys; ``parts`` splits a renamed key of ``qkv``."""
    return {key: parts(rename(key, mapping)) for key in ours}


def split_qkv(*query_key_value: str) -> Callable[[str], list[str]]:
    """A function that gives the three published keys of a ``qkv``, which have these names in it."""
    return lambda key: (
        [key.replace("qkv", part) for part in query_key_value] if ".qkv." in key else [key]
    )


QUERY_KEY_VALUE = split_qkv("query", "key", "value")
"""As Hugging Face's and TorchMultimodal's models name query, key and value."""


def export_state_dict(
    state_dict: Mapping[str, Tensor],
    mapping: KeyMapping,
    parts: Callable[[str], list[str]] = QUERY_KEY_VALUE,
) -> dict[str, Tensor]:
    """Our tensors under the published keys; query, key and value are views of our one matrix."""
    published: dict[str, Tensor] = {}
    for name, keys in published_keys(state_dict, mapping, parts).items():
        published |= dict(zip(keys, _row_parts(state_dict[name], len(keys)), strict=True))
    return published


def drop_tied_keys(
    state_dict: Mapping[str, Tensor], tied: Mapping[str, str], origin: str
) -> dict[str, Tensor]:
    """The state dict with each tied tensor once, under its first key, whichever the file has.

    Args:
        tied: second key -> first key of the same tensor.

    Raises:
        ValueError: both keys are there, with different values.
    """
    once = {key: tensor for key, tensor in state_dict.items() if key not in tied}
    present = {second: first for second, first in tied.items() if second in state_dict}
    for second, first in present.items():
        once.setdefault(first, state_dict[second])
    raise_if_any(
        [
            f"{second} differs from {first}, which is the same tensor"
            for second, first in present.items()
            if not torch.equal(once[first], state_dict[second])
        ],
        f"the weights of {origin} do not fit",
    )
    return once


def raise_if_any(problems: Sequence[str], message: str) -> None:
    """Raises ValueError, with a line for each problem, if there are any."""
    if problems:
        raise ValueError(f"{message}:\n  " + "\n  ".join(problems))


TRANSFORMERS_BLOCKS: KeyMapping = (
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm_(before|after)\.", r".layernorm_\1."),
    (r"\.attention\.qkv\.", ".attention.attention.qkv."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.mlp_in\.", ".intermediate.dense."),
    (r"\.mlp_out\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
)
"""The blocks of transformers' ViT, BEiT and FLAVA, and the LayerNorm after them."""

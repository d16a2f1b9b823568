"""The training state besides the weights: tensors of the optimizer and of random generators.

They are saved by the names of their parameters, and sharded tensors stay sharded:
torch.distributed.checkpoint reshards them for whichever ranks read them. Its own optimizer
state dicts are not used: to make one, it takes a step of an optimizer that has no state yet, and
then a resumed run would not be the same bit for bit.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.optim import Optimizer

from flava.core.distributed import rank
from flava.core.randomness import random_generator
from flava.training.checkpoint import STATE, damaged_error

# Intended: a run of one process saves in the same format.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer and generator states of this rank by name, not copied."""
    optimizer_state = {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return optimizer_state | {
        f"random.{rank()}.{kind}": state for kind, state in _generator_states().items()
    }


def _generator_states() -> dict[str, Tensor]:
    """The states of this rank's random generators, by kind of device."""
    cpu = {"cpu": torch.get_rng_state()}
    return cpu | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def reseed(seed: int, step: int) -> None:
    """Seed this rank's generators as no other rank and no other step is seeded."""
    torch.manual_seed(int(random_generator(seed, step, f"rank {rank()}").integers(2**63)))


def restore_state(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Load the states of the optimizer and of this rank's random generators.

    A rank that did not exist when the checkpoint was written keeps its generators: see `reseed`.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    folder = checkpoint / STATE
    reader = StateReader(folder)
    try:
        stored = reader.read_metadata().state_dict_metadata
        wanted: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            # A parameter without a gradient so far has no state.
            if f"optimizer.{name}.step" in stored:
                state = _empty_adamw_state(parameter)
                optimizer.state[parameter] = state
                wanted |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        own_states = {
            f"random.{rank()}.{kind}": state for kind, state in _generator_states().items()
        }
        random = {name: state for name, state in own_states.items() if name in stored}
        load(wanted | random, storage_reader=reader)
    except (CheckpointException, OSError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise damaged_error(folder, error) from error
    for name, state in random.items():
        (torch.set_rng_state if name.endswith("cpu") else torch.cuda.set_rng_state)(state)


def _stored_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's state, of all ranks; errors of torch if it is damaged."""
    reader = StateReader(checkpoint / STATE)
    tensors = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in reader.read_metadata().state_dict_metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }
    load(tensors, storage_reader=reader)
    return tensors


def _empty_adamw_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's initial state of a parameter, as its fused implementation makes it."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


class StateReader(FileSystemReader):
    """Reads a checkpoint of tensors only, whose pickled metadata cannot run code."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = MetadataUnpickler(file).load()
        values = metadata.state_dict_metadata.values()
        if not all(isinstance(each, TensorStorageMetadata) for each in values):
            raise pickle.UnpicklingError("it holds more than tensors")
        metadata.storage_meta.load_id = self.load_id
        return metadata


class MetadataUnpickler(pickle.Unpickler):
    """Unpickles the classes that torch's metadata consists of, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = module.startswith("torch.distributed.checkpoint.") or (module, name) in ALLOWED
        if not allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


ALLOWED = {
    ("torch", "Size"),
    ("torch", "float32"),
    ("torch", "uint8"),
    ("torch.serialization", "_get_layout"),
    ("builtins", "dict"),
    ("pathlib", "PosixPath"),
}

"""The tensors of a run besides its weights: optimiser and random generators, by name.

Names are those of parameters, and sharded tensors stay sharded: torch.distributed.checkpoint puts
them together for whatever sharding reads them. Its own state dicts of optimisers are not used:
making one steps an optimiser that has no state yet, and a resumed run would not be the same bit for
bit.
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
from flava.training.checkpoint import STATE, damaged

# It is meant: a run of one process has nothing to join.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def tensors_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """All that a checkpoint keeps of this rank; the tensors themselves, not copies."""
    found = {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return found | {f"random.{rank()}.{kind}": state for kind, state in generators().items()}


def generators() -> dict[str, Tensor]:
    """The states of torch's random generators that this rank draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def seed_anew(seed: int, step: int) -> None:
    """Give this rank random numbers that no other rank has, and no other update had."""
    torch.manual_seed(int(random_generator(seed, step, f"rank {rank()}").integers(2**63)))


def restore(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Fill the optimiser and this rank's random generators.

    Those of a rank that was not there stay as they are: see `seed_anew`.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    folder = checkpoint / STATE
    reader = OptimizerStateReader(folder)
    try:
        stored = reader.read_metadata().state_dict_metadata
        wanted: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            # A parameter that no batch has trained yet has no state.
            if f"optimizer.{name}.step" in stored:
                state = empty_state(parameter)
                optimizer.state[parameter] = state
                wanted |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        own = {f"random.{rank()}.{kind}": state for kind, state in generators().items()}
        random = {name: state for name, state in own.items() if name in stored}
        load(wanted | random, storage_reader=reader)
    except (CheckpointException, OSError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise damaged(folder, error) from error
    for name, state in random.items():
        (torch.set_rng_state if name.endswith("cpu") else torch.cuda.set_rng_state)(state)


def stored_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint's state, of all ranks; errors of whatever is not whole."""
    reader = OptimizerStateReader(checkpoint / STATE)
    found = {
        name: torch.empty(each.size, dtype=each.properties.dtype)
        for name, each in reader.read_metadata().state_dict_metadata.items()
        if isinstance(each, TensorStorageMetadata)
    }
    load(found, storage_reader=reader)
    return found


def empty_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's, as its fused form makes it, sharded as the parameter is."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


class OptimizerStateReader(FileSystemReader):
    """Reads tensors alone, and a table of them that can run no code."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = TableUnpickler(file).load()
        values = metadata.state_dict_metadata.values()
        if not all(isinstance(each, TensorStorageMetadata) for each in values):
            raise pickle.UnpicklingError("it holds more than tensors")
        metadata.storage_meta.load_id = self.load_id
        return metadata


class TableUnpickler(pickle.Unpickler):
    """Knows what such a table is made of, and refuses all else."""

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

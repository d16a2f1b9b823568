"""The settings of the training loop, and how the configuration of a run is saved and loaded."""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from flava.core.constraints import check_config
from flava.core.files import explain_errors, write_atomically
from flava.core.precision import Precision
from flava.training.optimizer import OptimizerConfig, ScheduleConfig


class Parallel(Enum):
    """How the ranks of a run share the model; each has its share of every batch in any case."""

    DDP = "ddp"
    """Every rank holds the whole model, and gradients are averaged."""
    FSDP = "fsdp"
    """Every rank holds a part of each weight, gradient and optimiser state."""
    HYBRID = "hybrid"
    """The ranks of a machine hold a part each, and every machine the whole."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The settings of the training loop. Each kind of run adds its model and its data.

    All of it is saved beside the checkpoints, and compared when the run is resumed.

    Raises:
        ValueError: fields are out of range, or do not fit each other; all of them are listed.
    """

    # JSON has no infinity: by default pydantic writes null, which it would not read again.
    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    recipe: Annotated[str, tyro.conf.Suppress]
    """The recipe this run was made from."""
    output_dir: Path
    """Folder for the checkpoints, the metrics and the report of the run."""
    max_steps: PositiveInt
    """Number of optimizer steps to train for. The learning rate decays until then, unless
    schedule.decay_end is set."""
    seed: NonNegativeInt = 0
    """Random seed of the initial weights, the order of the data, its crops and masks, and the
    source of each step's batch."""
    resume: bool = False
    """Continue from the last checkpoint in output_dir, if there is one."""
    optimizer: OptimizerConfig
    """AdamW's settings."""
    schedule: ScheduleConfig
    """Warm-up and decay of the learning rate."""
    precision: Precision = Precision.BF16
    """Number format of matrix products."""
    accumulate: PositiveInt = 1
    """Number of batches that are accumulated for one step. They have the losses and gradients of
    one large batch (of the contrastive loss too), but need the memory of a single one."""
    validate_every: PositiveInt = 100
    """Steps between two validations, which decide which checkpoint is kept as the best."""
    validation_tolerance: NonNegativeFloat = 0.0
    """A later checkpoint becomes the best one unless its metric is lower than the highest so far by
    more than this. Set it to the standard error of the metric, so that no checkpoint is kept only
    because it was lucky."""
    checkpoint_every: PositiveInt = 200
    """Steps between two checkpoints; one is written at the end and on Ctrl-C in any case."""
    keep_last: PositiveInt = 1
    """Number of most recent checkpoints to keep; the best one is kept in any case."""
    parallel: Parallel = Parallel.DDP
    """How several ranks share the model: ddp (each has all of it), fsdp (each has a part of every
    weight) or hybrid (parts within a machine, copies over machines)."""
    checkpoint_blocks: bool = False
    """Keep only the input of each transformer block, and compute its activations again in the
    backward pass. This takes a third more computation and a fraction of the memory."""
    compile_blocks: bool = False
    """Compile each transformer block with torch.compile."""
    profile: bool = False
    """Write a trace of three early steps to trace.json.gz in output_dir, for ui.perfetto.dev."""
    wandb: str | None = None
    """Project of Weights & Biases to which all metrics are logged as well. It needs pip install
    'flava[wandb]'. WANDB_MODE=offline keeps them in output_dir."""
    timeout: PositiveInt = 600
    """Seconds that a rank waits for the others before it stops with an error."""
    max_non_finite: NonNegativeInt = 10
    """Number of steps of the whole run that may be skipped because a loss or a gradient is not
    finite. One more such step stops the run."""

    @property
    def selection_metric(self) -> str:
        """Identifies the metric that chooses the best checkpoint. Its values can be compared only
        between runs where this is the same."""
        return self.recipe

    def __post_init__(self) -> None:
        check_config(self, "the run's configuration does not hold")

    @classmethod
    def upgrade(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """The content of a file of any earlier version, as this version would have saved it."""
        return {RENAMED.get(name, name): value for name, value in saved.items()}


AnyRun = TypeVar("AnyRun", bound=TrainerConfig)

FREE_ON_RESUME = {
    "output_dir",
    "resume",
    "max_steps",
    "validator",
    "validation",
    "validate_every",
    "validation_tolerance",
    "checkpoint_every",
    "keep_last",
    "parallel",
    "checkpoint_blocks",
    "compile_blocks",
    "profile",
    "wandb",
    "timeout",
    "max_non_finite",
}
"""Fields that may differ when a run is resumed; all others must stay as they were."""


def save_config(run: TrainerConfig, path: Path) -> None:
    """Write a run's configuration as JSON; errors as `write_atomically`."""
    write_atomically(path, TypeAdapter(type(run)).dump_json(run, indent=2) + b"\n")


def load_config(path: Path, kind: type[AnyRun]) -> AnyRun:
    """Read a run's configuration; earlier versions' files are understood too.

    Raises:
        FileNotFoundError: there is no run there.
        ValueError: the file is not the configuration of a run of that kind; every mistake is
            listed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no run at {path.parent}: it holds no {path.name}")
    try:
        saved = json.loads(path.read_bytes())
        if isinstance(saved, dict):
            saved = kind.upgrade(saved)
        return TypeAdapter(kind).validate_json(json.dumps(saved))
    except ValidationError as error:
        raise ValueError(f"{path} is not a run's configuration:{explain_errors(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a run's configuration: {error}") from error


RENAMED = {
    "probe_every": "validate_every",
    "probe_tolerance": "validation_tolerance",
    "held_out": "validation",
}
"""Former names of a run's fields in files of earlier versions -> their names now."""


def differences(saved: AnyRun, asked: AnyRun) -> list[str]:
    """The fields in which two runs differ, one line each; those in ``FREE_ON_RESUME`` left out."""
    ours, theirs = (flatten(json.loads(TypeAdapter(type(r)).dump_json(r))) for r in (saved, asked))
    return [
        f"{name}: {ours.get(name)} in the saved run, {theirs.get(name)} now"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and name.split(".")[0] not in FREE_ON_RESUME
    ]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    """Nested dictionaries as one, whose keys are joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    nested = (flatten(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items())
    return {k: v for each in nested for k, v in each.items()}

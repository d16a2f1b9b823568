"""The configuration of a run: recipes return it, options change it, `run.json` keeps it."""

import json
from dataclasses import dataclass, field
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
from flava.core.unions import KIND, TaggedUnion
from flava.data.config import DataConfig
from flava.methods import Validator, former_validator, method_of, models, objective_configs
from flava.models.config import ModelConfig
from flava.objectives.objective import ObjectiveConfig
from flava.training.initialization import InitConfig
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
    """Folder that the run writes to: checkpoints, metrics, the report."""
    max_steps: PositiveInt
    """Steps of the optimizer to train for; the learning rate's cosine ends there."""
    seed: NonNegativeInt = 0
    """Decides the initial weights, the order of the data, crops, masks and the mixture."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, if there is one."""
    optimizer: OptimizerConfig
    """AdamW's settings."""
    schedule: ScheduleConfig
    """Warm-up and decay of the learning rate."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""
    accumulate: PositiveInt = 1
    """Batches that are accumulated for one step, which counts them as one large batch (for the
    contrastive loss too) but needs the memory of one."""
    validate_every: PositiveInt = 100
    """Steps between two validations, which choose the checkpoint that is kept as best."""
    validation_tolerance: NonNegativeFloat = 0.0
    """A later checkpoint becomes the best one unless its metric is lower than the highest so far by
    more than this. Set it to the metric's standard error, so that no checkpoint is kept for its
    luck."""
    checkpoint_every: PositiveInt = 200
    """Steps between two checkpoints; one is written at the end and on Ctrl-C in any case."""
    keep_last: PositiveInt = 1
    """How many of the last checkpoints are kept; the best is kept in any case."""
    parallel: Parallel = Parallel.DDP
    """How several ranks share the model: ddp (each has all of it), fsdp (each has a part of every
    weight) or hybrid (parts within a machine, copies over machines)."""
    checkpoint_blocks: bool = False
    """Keep only the inputs of each transformer block, and compute the rest again in the backward
    pass: a third more computation for a fraction of the memory."""
    compile_blocks: bool = False
    """Compile each transformer block with torch.compile."""
    profile: bool = False
    """Write a trace of three early steps to trace.json.gz in output_dir, for ui.perfetto.dev."""
    wandb: str | None = None
    """Log all metrics to this project of Weights & Biases as well; needs pip install
    'flava[wandb]'. WANDB_MODE=offline keeps them in output_dir."""
    timeout: PositiveInt = 600
    """Seconds that a rank waits for the others before it stops with an error."""
    max_non_finite: NonNegativeInt = 10
    """Steps of the whole run that may be skipped because a loss or gradient was not finite. One
    more stops it."""

    @property
    def selection_metric(self) -> str:
        """Identifies the metric that chooses the best checkpoint. Its values can be compared only
        between runs where this is the same."""
        return self.recipe

    def __post_init__(self) -> None:
        check_config(self, "the run's configuration does not hold")


@dataclass(frozen=True, kw_only=True)
class Run(TrainerConfig):
    """The whole configuration of a pretraining run (of a codebook's too)."""

    model: Annotated[ModelConfig, TaggedUnion(models)]
    """Geometry of the model."""
    objective: Annotated[ObjectiveConfig, TaggedUnion(objective_configs)]
    """Settings of the losses."""
    data: DataConfig
    """What is read, how it is mixed, transformed and masked."""
    init: InitConfig = field(default_factory=InitConfig)
    """Where parts of the model come from; it is not read when a run is resumed."""
    validator: Validator = Validator.NONE
    """What chooses the best checkpoint: imagenet (zero-shot accuracy on ImageNet-1k), embedded (the
    same on the embedded corpus), pairs (retrieval on validation), loss (that of masked modelling on
    validation) or none."""
    validation: tuple[str, ...] = ()
    """What the validator reads. For pairs and loss: shards, as in data. For imagenet: where the
    validation images are, a folder of class folders, tars or Parquet; by default it is looked for
    below data.root."""

    @property
    def selection_metric(self) -> str:
        return " ".join([self.validator.value, *self.validation])

    def mistakes(self, prefix: str) -> list[str]:
        """What spans several fields; see `config_errors`."""
        found, kind = [], type(self.model).__name__
        method = method_of(self.model)
        if not isinstance(self.objective, method.objective_config):
            found.append(
                f"{prefix}objective is a {type(self.objective).__name__}, which does not train a "
                f"{kind}"
            )
        found += method.validator_errors(self.validator, self.validation)
        return found + [
            f"{prefix}init.{name} is {source}, but a {kind} has no such part: leave it out"
            for name, source in self.init.given.items()
            if not hasattr(self.model, name)
        ]


RUN = TypeAdapter(Run)
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


def save_run(run: TrainerConfig, path: Path) -> None:
    """Write a run's configuration as JSON; errors as `write_atomically`."""
    write_atomically(path, TypeAdapter(type(run)).dump_json(run, indent=2) + b"\n")


def load_run(path: Path, kind: type[AnyRun] = Run) -> AnyRun:
    """Read a run's configuration; earlier versions' files are understood too.

    Raises:
        FileNotFoundError: there is no run there.
        ValueError: the file is not the configuration of a run of that kind; every mistake is
            listed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no run at {path.parent}: it holds no {path.name}")
    try:
        saved = with_new_names(json.loads(path.read_bytes()))
        if kind is Run and isinstance(saved, dict):
            model = saved.get("model")
            name = str(model.get(KIND)) if isinstance(model, dict) else ""
            former = former_validator(name, bool(saved.get("validation")))
            saved.setdefault("validator", former.value)
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


def with_new_names(saved: Any) -> Any:
    """The content of a run.json, with the fields that were renamed since under their new names."""
    if not isinstance(saved, dict):
        return saved
    renamed = {RENAMED.get(name, name): value for name, value in saved.items()}
    objective = renamed.get("objective")
    if isinstance(objective, dict) and "workers" in objective:
        objective = {"ranks" if k == "workers" else k: v for k, v in objective.items()}
        renamed["objective"] = objective
    return renamed


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

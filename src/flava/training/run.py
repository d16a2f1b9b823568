"""The whole configuration of a run: what a recipe returns, a command line edits, a run saves."""

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ConfigDict, TypeAdapter, ValidationError

from flava.core.files import explain_errors, write_atomically
from flava.core.precision import Precision
from flava.core.unions import KIND, TaggedUnion
from flava.data.loader import DataConfig
from flava.models import (
    ClipConfig,
    CodebookConfig,
    DinoConfig,
    FlavaConfig,
    MaskedImageConfig,
    MaskedTextConfig,
)
from flava.objectives import (
    ClipObjectiveConfig,
    CodebookObjectiveConfig,
    ContrastConfig,
    DinoObjectiveConfig,
    FlavaObjectiveConfig,
    MaskedObjectiveConfig,
)
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


class Validator(Enum):
    """What looks at a pretraining run every ``validate_every`` updates, and at its end: its first
    figure chooses the checkpoint that is kept as best."""

    IMAGENET = "imagenet"
    """Zero-shot accuracy on ImageNet-1k's validation images, with CLIP's class names and all of its
    80 templates: the paper's (supplement, B.1)."""
    EMBEDDED = "embedded"
    """Zero-shot accuracy on the embedded corpus's validation pictures: of emoji alone."""
    PAIRS = "pairs"
    """Retrieval among the pairs of ``validation``: the mean R@5 of both ways."""
    LOSS = "loss"
    """The loss on ``validation``, of masked modelling of one kind of data."""
    NONE = "none"
    """Nothing: there is no best checkpoint, only the last."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What the loop reads of a run's configuration; each kind of run adds what it trains on what.

    All of it is saved beside the checkpoints, and compared when the run is resumed.
    """

    # JSON has no infinity: by default pydantic writes null, which it would not read again.
    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    recipe: Annotated[str, tyro.conf.Suppress]
    """The recipe this run was made from."""
    output_dir: Path
    """Folder that the run writes to: checkpoints, metrics, the report."""
    max_steps: int
    """Updates to train for; the learning rate's cosine ends there."""
    seed: int = 0
    """Decides the initial weights, the order of the data, crops, masks and the mixture."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, if there is one."""
    optimizer: OptimizerConfig
    """AdamW's settings."""
    schedule: ScheduleConfig
    """Warm-up and decay of the learning rate."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""
    accumulate: int = 1
    """Batches that count as one for an update, to contrast too, in the memory of one."""
    validate_every: int = 100
    """Updates between two probes, which choose the checkpoint that is kept as best."""
    validation_tolerance: float = 0.0
    """A later checkpoint becomes the best one unless its figure is lower than the highest by more
    than this. Set to the figure's standard error, it keeps no checkpoint for its luck."""
    checkpoint_every: int = 200
    """Updates between two checkpoints; one is written at the end and on Ctrl-C in any case."""
    keep_last: int = 1
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
    """Write a trace of three early updates to trace.json.gz in output_dir, for ui.perfetto.dev."""
    wandb: str | None = None
    """The project of Weights & Biases that is told all figures as well, by pip install
    'flava[wandb]'. WANDB_MODE=offline keeps them in output_dir."""
    timeout: int = 600
    """Seconds that a rank waits for the others before it takes them for dead, and stops."""
    max_non_finite: int = 10
    """Updates of the whole run that may be left out because a loss or gradient was not finite; one
    more stops it."""

    @property
    def judged_by(self) -> str:
        """What its figures are of: those of runs that differ in it cannot be compared."""
        return self.recipe

    def __post_init__(self) -> None:
        if mistakes := self.mistakes():
            raise ValueError("the run's configuration does not hold:\n  " + "\n  ".join(mistakes))

    def mistakes(self) -> list[str]:
        """What is wrong with these settings, one line each."""
        found = [
            f"{name} is {value}: use at least 1"
            for name in (
                "max_steps",
                "accumulate",
                "validate_every",
                "checkpoint_every",
                "keep_last",
                "timeout",
            )
            if (value := getattr(self, name)) < 1
        ]
        found += [
            f"{name} is {value}: use 0 or more"
            for name in ("seed", "validation_tolerance", "max_non_finite")
            if not (value := getattr(self, name)) >= 0
        ]
        return found + self.optimizer.mistakes("optimizer") + self.schedule.mistakes("schedule")


TRAINED_BY = {
    FlavaConfig: FlavaObjectiveConfig,
    CodebookConfig: CodebookObjectiveConfig,
    ClipConfig: ClipObjectiveConfig,
    MaskedImageConfig: MaskedObjectiveConfig,
    DinoConfig: DinoObjectiveConfig,
    MaskedTextConfig: MaskedObjectiveConfig,
}
"""Which objective trains which model."""


@dataclass(frozen=True, kw_only=True)
class Run(TrainerConfig):
    """Everything that decides what a pretraining run, or a codebook's, does."""

    model: Annotated[
        FlavaConfig
        | CodebookConfig
        | ClipConfig
        | DinoConfig
        | MaskedImageConfig
        | MaskedTextConfig,
        TaggedUnion(),
    ]
    """Geometry of the model."""
    objective: Annotated[
        FlavaObjectiveConfig
        | CodebookObjectiveConfig
        | ClipObjectiveConfig
        | DinoObjectiveConfig
        | MaskedObjectiveConfig,
        TaggedUnion(),
    ]
    """The losses' settings."""
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
    def judged_by(self) -> str:
        return " ".join([self.validator.value, *self.validation])

    def mistakes(self) -> list[str]:
        found = super().mistakes()
        if isinstance(self.objective, ContrastConfig | DinoObjectiveConfig):
            found += self.objective.mistakes("objective")
        if not isinstance(self.objective, TRAINED_BY[type(self.model)]):
            found.append(
                f"objective is a {type(self.objective).__name__}, which does not train a "
                f"{type(self.model).__name__}"
            )
        found += self.validator_mistakes()
        return found + [
            f"init.{name} is {source}, but a {type(self.model).__name__} has no such part: leave "
            "it out"
            for name, source in self.init.given.items()
            if not hasattr(self.model, name)
        ]

    def validator_mistakes(self) -> list[str]:
        """Where the validator does not fit what is trained, or lacks what it reads."""
        named, model = f"validator is {self.validator.value}", type(self.model).__name__
        compares = self.validator in (Validator.IMAGENET, Validator.EMBEDDED, Validator.PAIRS)
        if compares and not isinstance(self.objective, ContrastConfig):
            return [f"{named}, which compares images with texts, but a {model} does not: use none"]
        if self.validator is Validator.LOSS and not isinstance(
            self.objective, MaskedObjectiveConfig
        ):
            return [f"{named}, which is of masked modelling of one kind of data: use another"]
        reads = self.validator in (Validator.PAIRS, Validator.LOSS)
        if reads and not self.validation:
            return [f"{named}, but validation is empty: name the shards that it reads"]
        if self.validation and not reads and self.validator is not Validator.IMAGENET:
            return [f"validation is set, but {named}, which does not read it: leave it out"]
        return []


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
"""Fields that may differ when a run is resumed; any other would make it another run."""


def save_run(run: TrainerConfig, path: Path) -> None:
    write_atomically(path, TypeAdapter(type(run)).dump_json(run, indent=2) + b"\n")


def load_run(path: Path, kind: type[AnyRun] = Run) -> AnyRun:
    """Raises:
    FileNotFoundError: there is no run there.
    ValueError: the file is not the configuration of a run of that kind; every mistake is listed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no run at {path.parent}: it holds no {path.name}")
    try:
        saved = with_new_names(json.loads(path.read_bytes()))
        if kind is Run and isinstance(saved, dict):
            saved.setdefault("validator", former_validator(saved))
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
"""Fields of a run by the names that they had in files of earlier versions."""


def with_new_names(saved: Any) -> Any:
    """What a run.json holds, its fields under the names that they have now."""
    if not isinstance(saved, dict):
        return saved
    renamed = {RENAMED.get(name, name): value for name, value in saved.items()}
    objective = renamed.get("objective")
    if isinstance(objective, dict) and "workers" in objective:
        objective = {"ranks" if k == "workers" else k: v for k, v in objective.items()}
        renamed["objective"] = objective
    return renamed


def former_validator(saved: dict[str, Any]) -> str:
    """That of a run which was saved before runs named theirs."""
    objective = saved.get("objective")
    kind = objective.get(KIND) if isinstance(objective, dict) else None
    if kind in (FlavaObjectiveConfig.__name__, ClipObjectiveConfig.__name__):
        return Validator.EMBEDDED.value
    return (Validator.LOSS if saved.get("validation") else Validator.NONE).value


def differences(saved: AnyRun, asked: AnyRun) -> list[str]:
    """The fields, beyond those free on resume, in which two runs differ: one line each."""
    ours, theirs = (flatten(json.loads(TypeAdapter(type(r)).dump_json(r))) for r in (saved, asked))
    return [
        f"{name}: {ours.get(name)} in the saved run, {theirs.get(name)} now"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name) and name.split(".")[0] not in FREE_ON_RESUME
    ]


def flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {prefix: value}
    nested = (flatten(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items())
    return {k: v for each in nested for k, v in each.items()}

"""The configuration of a pretraining run: recipes return it, and command-line options change it."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import TypeAdapter

from flava.core.unions import KIND, TaggedUnion
from flava.data.data_config import DataConfig
from flava.methods import Validator, former_validator, method_of, models, objective_configs
from flava.models.config import ModelConfig
from flava.objectives.objective import ObjectiveConfig
from flava.training.initialization import InitConfig
from flava.training.trainer_config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Run(TrainerConfig):
    """The whole configuration of a pretraining run, or of the training of a codebook."""

    model: Annotated[ModelConfig, TaggedUnion(models)]
    """Geometry of the model."""
    objective: Annotated[ObjectiveConfig, TaggedUnion(objective_configs)]
    """Settings of the losses."""
    data: DataConfig
    """What data is read, and how it is mixed, transformed and masked."""
    init: InitConfig = field(default_factory=InitConfig)
    """Where parts of the model get their initial weights from. It is not read again when a
    run is resumed."""
    validator: Validator = Validator.NONE
    """How the best checkpoint is chosen: by zero-shot accuracy on ImageNet-1k (imagenet) or on the
    embedded corpus (embedded), by retrieval (pairs) or the loss of masked modelling (loss) on the
    shards of --validation, or not at all (none)."""
    validation: tuple[str, ...] = ()
    """The data that the validator reads. For pairs and loss: shards, as in data. For imagenet: the
    validation images, as a folder with a folder for each class, tars or Parquet; by default they
    are looked for below data.root."""

    @property
    def selection_metric(self) -> str:
        return " ".join([self.validator.value, *self.validation])

    @classmethod
    def upgrade(cls, saved: dict[str, Any]) -> dict[str, Any]:
        saved = super().upgrade(saved)
        objective = saved.get("objective")
        if isinstance(objective, dict) and "workers" in objective:
            saved["objective"] = {"ranks" if k == "workers" else k: v for k, v in objective.items()}
        model = saved.get("model")
        name = str(model.get(KIND)) if isinstance(model, dict) else ""
        former = former_validator(name, bool(saved.get("validation")))
        return {"validator": former.value, **saved}

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

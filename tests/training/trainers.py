"""Trainers of a codebook on batches that are given."""

from collections.abc import Iterator

import torch

from flava.core.batch import Batch
from flava.models import Codebook
from flava.objectives.objective import Validate
from flava.training.run import Run
from flava.training.run_folder import check
from flava.training.trainer import Trainer
from tests.tiny_runs import CODEBOOK, MeanSquare, image_batch, image_batches


def trainer_of(run: Run, validator: Validate | None = None) -> Trainer:
    torch.manual_seed(run.seed)
    check(run)
    return Trainer(run, MeanSquare(Codebook(CODEBOOK)), validator)


def trained(run: Run, batches: Iterator[Batch] | None = None) -> Trainer:
    trainer = trainer_of(run)
    trainer.train(batches or image_batches())
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def ending_after(count: int) -> Iterator[Batch]:
    yield from (image_batch(number) for number in range(count))
    raise RuntimeError("end")

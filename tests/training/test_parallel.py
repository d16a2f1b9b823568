"""Several ranks train as one process does on the joined batch, however they share the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.batch import Batch
from flava.distributed import Gather, rank
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.training.loop import Trainer
from flava.training.optimizer import OptimizerConfig
from flava.training.run import LoopConfig, Parallel, Precision
from flava.training.schedule import ScheduleConfig
from tests.support import tiny_model
from tests.tiny_runs import rows
from tests.training.ranks import mixed_batches, own_share, run_phases

STEPS = 6
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""Of 32-bit sums in another order; Adam's eps below is large, lest it blow their errors up."""


def config(folder: Path, **changes: Any) -> LoopConfig:
    fields: dict[str, Any] = {
        "recipe": "mixed",
        "output_dir": folder,
        "max_steps": STEPS,
        "optimizer": OptimizerConfig(lr=1e-2, eps=1e-3, max_grad_norm=0.5),
        "schedule": ScheduleConfig(warmup_steps=2),
        "precision": Precision.FP32,
    }
    return LoopConfig(**(fields | changes))


CASES: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": Parallel.DDP},
    "fsdp": {"parallel": Parallel.FSDP},
    "hybrid": {"parallel": Parallel.HYBRID},
    "ddp, blocks checkpointed": {"parallel": Parallel.DDP, "checkpoint_blocks": True},
    "fsdp, blocks checkpointed": {"parallel": Parallel.FSDP, "checkpoint_blocks": True},
    "ddp, accumulated": {"parallel": Parallel.DDP, "accumulate": 2, "max_steps": 2},
    "fsdp, accumulated": {"parallel": Parallel.FSDP, "accumulate": 2, "max_steps": 2},
}


def trainer_of(run: LoopConfig) -> Trainer:
    torch.manual_seed(0)
    objective = FlavaObjective(FlavaObjectiveConfig(gather=Gather.GLOBAL), tiny_model())
    return Trainer(run, objective, None)


def batches(run: LoopConfig, first: int = 0) -> Iterator[Batch]:
    """Of one kind within an update, as the loader's are."""
    for batch in mixed_batches(first):
        yield from [batch] * run.accumulate


def train_all(folder: Path) -> None:
    for name, changes in CASES.items():
        run = config(folder / name, **changes)
        trainer = trainer_of(run)
        trainer.train(own_share(batches(run)))
        weights = trainer.parallel.weights()
        if rank() == 0:
            torch.save(dict(weights), folder / f"{name}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_phases([(2, train_all)], folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process_on_the_joined_batch(trained: Path, name: str) -> None:
    changes = {k: v for k, v in CASES[name].items() if k in ("accumulate", "max_steps")}
    run = config(trained / f"{name} alone", **changes)
    alone = trainer_of(run)
    alone.train(batches(run))
    found = torch.load(trained / f"{name}.pt")
    for ours, theirs in zip(rows(run.output_dir), rows(trained / name), strict=True):
        for figure in [f for f in ours if f.startswith("loss/")] + ["grad_norm", "lr"]:
            assert theirs[figure] == pytest.approx(ours[figure], rel=1e-4, abs=1e-6), figure
    for weight, value in alone.parallel.weights().items():
        torch.testing.assert_close(found[weight], value, **TOLERANCE, msg=weight)

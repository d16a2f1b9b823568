"""Several ranks train as one process does on the joined batch, however they share the model."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch
from flava.core.distributed import Gather, gather_objects, rank, world_size
from flava.core.precision import Precision
from flava.data.loader import SourcePositions
from flava.data.streaming import StreamPosition
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.training import run_folder as folder_module
from flava.training.checkpoint import load_progress
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run_folder import _disagreements, _lines_of_ranks, _unshared, check
from flava.training.state import _stored_tensors, state_tensors
from flava.training.trainer import Trainer
from flava.training.trainer_config import Parallel, TrainerConfig
from tests.support import tiny_model
from tests.tiny_runs import rows
from tests.training.ranks import mixed_batches, own_share, run_phases

STEPS = 6
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""Of 32-bit sums in another order; Adam's eps below is large, lest it blow their errors up."""


def config(folder: Path, **changes: Any) -> TrainerConfig:
    fields: dict[str, Any] = {
        "recipe": "mixed",
        "output_dir": folder,
        "max_steps": STEPS,
        "optimizer": OptimizerConfig(lr=1e-2, eps=1e-3, max_grad_norm=0.5),
        "schedule": ScheduleConfig(warmup_steps=2),
        "precision": Precision.FP32,
    }
    return TrainerConfig(**(fields | changes))


CASES: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": Parallel.DDP},
    "fsdp": {"parallel": Parallel.FSDP},
    "hybrid": {"parallel": Parallel.HYBRID},
    "ddp, blocks checkpointed": {"parallel": Parallel.DDP, "checkpoint_blocks": True},
    "fsdp, blocks checkpointed": {"parallel": Parallel.FSDP, "checkpoint_blocks": True},
    "ddp, accumulated": {"parallel": Parallel.DDP, "accumulate": 2, "max_steps": 2},
    "fsdp, accumulated": {"parallel": Parallel.FSDP, "accumulate": 2, "max_steps": 2},
}


def trainer_of(run: TrainerConfig) -> Trainer:
    torch.manual_seed(0)
    objective = FlavaObjective(FlavaObjectiveConfig(gather=Gather.GLOBAL), tiny_model())
    check(run)
    return Trainer(run, objective, None)


def batches(run: TrainerConfig, first: int = 0) -> Iterator[Batch]:
    """Of one kind within an update, as the loader's are."""
    for batch in mixed_batches(first):
        yield from [batch] * run.accumulate


def train_all(folder: Path) -> None:
    for name, changes in CASES.items():
        run = config(folder / name, **changes)
        trainer = trainer_of(run)
        trainer.train(own_share(batches(run)))
        weights = trainer.parallel.full_weights()
        if rank() == 0:
            torch.save(dict(weights), folder / f"{name}.pt")


def signalled(batches: Iterator[Batch], at: int) -> Iterator[Batch]:
    """The last rank alone gets SIGTERM while it waits for one of the batches."""
    for number, batch in enumerate(batches):
        if number == at and rank() == world_size() - 1:
            signal.raise_signal(signal.SIGTERM)
        yield batch


def position() -> SourcePositions:
    """Of a stream that this rank alone reads, and of one that both read."""
    return {
        "pairs": {
            rank(): StreamPosition(shard=7, samples=5),
            9: StreamPosition(shard=8, samples=rank()),
        }
    }


def save_stopped(folder: Path) -> None:
    """Two ranks shard the model, and one of them is told to stop."""
    run = config(folder / "stopped", parallel=Parallel.FSDP)
    with pytest.raises(Interrupted) as stop:
        trainer_of(run).train(signalled(own_share(batches(run)), at=2), position)
    (folder / f"stopped-{rank()}").write_text(str(stop.value))


def go_on(folder: Path) -> None:
    """As many ranks as there are now go on with it, sharing the model in another way."""
    ranks = world_size()
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    copy = folder / f"resumed by {ranks}"
    if rank() == 0:
        shutil.copytree(folder / "stopped", copy, symlinks=True)
    gather_objects(None)
    parallel = {2: Parallel.DDP, 3: Parallel.FSDP, 4: Parallel.HYBRID}[ranks]
    trainer = trainer_of(config(copy, parallel=parallel, resume=True))
    trainer.train(own_share(batches(trainer.run, trainer.step)))


def look_at_each_other(folder: Path) -> None:
    """What two ranks say that were started with different commands."""
    run = config(folder / "apart", seed=rank(), accumulate=1 + rank())
    folder_module.PATIENCE = 0.2
    said = {
        "configs": _disagreements(run),
        "same": _disagreements(config(folder / "apart")),
        "shared": _unshared(folder / "shared"),
        "unshared": _unshared(folder / f"machine-{rank()}"),
        "lines": _lines_of_ranks(["of all", f"of rank {rank()}"]),
    }
    (folder / f"said-{rank()}.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that takes several processes, which are started once."""
    folder = tmp_path_factory.mktemp("ranks")
    phases = [(2, train_all), (2, save_stopped), (2, look_at_each_other)]
    run_phases([*phases, *((ranks, go_on) for ranks in (2, 3, 4))], folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """One process, on the joined batches, without a stop."""
    trainer = trainer_of(config(tmp_path_factory.mktemp("alone")))
    trainer.train(batches(trainer.run))
    return trainer


@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process_on_the_joined_batch(trained: Path, name: str) -> None:
    assert_as_alone(trained, name)


@pytest.mark.slow
def test_so_do_four_ranks(tmp_path: Path) -> None:
    run_phases([(4, train_all)], tmp_path)
    for name in CASES:
        assert_as_alone(tmp_path, name)


def assert_as_alone(trained: Path, name: str) -> None:
    """Every figure and weight is that of one process."""
    changes = {k: v for k, v in CASES[name].items() if k in ("accumulate", "max_steps")}
    run = config(trained / f"{name} alone", **changes)
    single = trainer_of(run)
    single.train(batches(run))
    found = torch.load(trained / f"{name}.pt")
    for ours, theirs in zip(rows(run.output_dir), rows(trained / name), strict=True):
        for figure in [f for f in ours if f.startswith("loss/")] + ["grad_norm", "lr"]:
            assert theirs[figure] == pytest.approx(ours[figure], rel=1e-4, abs=1e-6), figure
    for weight, value in single.parallel.full_weights().items():
        torch.testing.assert_close(found[weight], value, **TOLERANCE, msg=weight)


def test_all_ranks_stop_after_the_same_update_when_one_is_told_to(trained: Path) -> None:
    said = {(trained / f"stopped-{number}").read_text() for number in range(2)}
    (line,) = said
    assert "stopped after 3 of 6 steps" in line
    assert load_progress(trained / "stopped" / "checkpoints" / "last").step == 3


def test_a_checkpoint_tells_where_the_streams_of_all_ranks_stand(trained: Path) -> None:
    found = load_progress(trained / "stopped" / "checkpoints" / "last").marks
    read_by_one = {0: StreamPosition(shard=7, samples=5), 1: StreamPosition(shard=7, samples=5)}
    assert found == {"pairs": read_by_one | {9: StreamPosition(shard=8, samples=1)}}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_goes_on_with_what_two_wrote(
    trained: Path, alone: Trainer, ranks: int
) -> None:
    folder = trained / f"resumed by {ranks}"
    if ranks == 1:
        shutil.copytree(trained / "stopped", folder, symlinks=True)
        trainer = trainer_of(config(folder, resume=True))
        trainer.train(batches(trainer.run, trainer.step))
    expected, last = rows(alone.run.output_dir), folder / "checkpoints" / "last"
    for ours, theirs in zip(expected, rows(folder), strict=True):
        assert theirs["loss/total"] == pytest.approx(ours["loss/total"], rel=1e-4)
    assert load_progress(last).ranks == ranks
    found = load_pretrained(last).state_dict()
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(found[name], value, **TOLERANCE, msg=name)
    moments = _stored_tensors(last)
    for name, value in state_tensors(alone.model, alone.optimizer).items():
        if name.startswith("optimizer"):
            torch.testing.assert_close(moments[name], value, **TOLERANCE, msg=name)


def test_ranks_that_do_not_fit_together_say_so(trained: Path) -> None:
    found, other = (json.loads((trained / f"said-{n}.json").read_text()) for n in range(2))
    assert {k: v for k, v in found.items() if k != "unshared"} == {
        k: v for k, v in other.items() if k != "unshared"
    }
    assert len(found["configs"]) == 2
    assert "accumulate: 1 on rank 0, 2 on rank 1" in found["configs"][0]
    assert "seed: 0 on rank 0, 1 on rank 1" in found["configs"][1]
    assert found["same"] == []
    assert found["shared"] == []
    (line,) = found["unshared"]
    assert "is not the same folder on all machines" in line
    assert "ranks 1 do not see" in line
    assert found["lines"] == ["of all", "of rank 0", "of rank 1"]

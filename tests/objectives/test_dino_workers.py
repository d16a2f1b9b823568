"""DINO's center on two workers, beside one process that sees both batches."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from flava.core.batch import CropBatch
from flava.objectives import DinoObjective, DinoObjectiveConfig
from tests.dino import dino_model, random_crops

WORKERS, IMAGES, STEPS = 2, 3, 3
CONFIG = DinoObjectiveConfig(epoch_steps=2, freeze_epochs=0)


def batches() -> list[CropBatch]:
    """One for each update, of all workers' images."""
    torch.manual_seed(1)
    return [random_crops(batch=WORKERS * IMAGES) for _ in range(STEPS)]


def part(batch: CropBatch, rows: slice) -> CropBatch:
    return CropBatch(
        keys=batch.keys[rows],
        global_crops=batch.global_crops[:, rows],
        local_crops=batch.local_crops[:, rows],
    )


def centers(rows: slice) -> torch.Tensor:
    """The center after each update; the student stays, so that it alone is compared."""
    torch.manual_seed(2)
    model = dino_model()
    objective = DinoObjective(CONFIG, model, 10)
    found = []
    for step, batch in enumerate(batches()):
        objective(part(batch, rows))
        objective.after_step(step + 1)
        found.append(model.center.clone())
    return torch.stack(found)


def work(worker: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=WORKERS
    )
    torch.save(centers(slice(worker * IMAGES, (worker + 1) * IMAGES)), folder / f"{worker}.pt")
    dist.destroy_process_group()


def test_the_center_is_that_of_all_workers_images(tmp_path: Path) -> None:
    spawn(work, args=(tmp_path,), nprocs=WORKERS)
    first, second = (torch.load(tmp_path / f"{worker}.pt") for worker in range(WORKERS))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, centers(slice(None)))
    assert not torch.allclose(first, centers(slice(0, IMAGES)), atol=1e-4)

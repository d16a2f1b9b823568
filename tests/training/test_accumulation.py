"""Batches that count as one, through the trainer: however many ranks and batches share the samples,
the losses that it writes and the gradients that it steps with are those of one undivided batch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from flava.core.batch import Batch, PairBatch, TextBatch, TextInputs
from flava.core.distributed import Gather, rank, world_size
from flava.core.precision import Precision
from flava.models import Flava
from flava.objectives import (
    ClipObjective,
    ClipObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
)
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run_folder import check
from flava.training.trainer import Trainer
from flava.training.trainer_config import Parallel, TrainerConfig
from tests.objectives.test_accumulation import batches as differing
from tests.objectives.test_accumulation import together
from tests.objectives.test_clip import tiny
from tests.support import random_pairs, tiny_config, tiny_model
from tests.tiny_runs import rows
from tests.training.ranks import rows_of, run_phases

RANKS, ACCUMULATED = (1, 2, 4), (1, 2, 4)
WORKERS = max(RANKS)
"""What all ranks together stand for, whose number decides the gradient of local contrast."""
KINDS = {
    "flava": ("pairs", "images", "coded images", "text", "whole pairs"),
    "clip": ("clip",),
}
"""A model, and the batches of its updates. Of each a quarter of the samples hides nearly nothing
and a quarter the most, texts differ in length, and of a quarter of the pairs none matches."""


@dataclass(frozen=True)
class Case:
    """A way to divide an update's samples."""

    model: str
    ranks: int
    accumulate: int
    parallel: Parallel

    @property
    def name(self) -> str:
        return f"{self.model}, {self.ranks} x {self.accumulate}, {self.parallel.value}"


UNDIVIDED = {name: Case(name, 1, 1, Parallel.DDP) for name in KINDS}
CASES = [
    Case(model, ranks, accumulate, parallel)
    for ranks in RANKS
    for accumulate in ACCUMULATED
    for parallel in (Parallel.DDP, Parallel.FSDP)
    for model in KINDS
    if parallel is Parallel.DDP or ranks > 1  # one rank shards nothing
]


def config(folder: Path, **changes: Any) -> TrainerConfig:
    """Updates of next to nothing, and no clipping: every update's gradients are those of the
    initial weights."""
    run = TrainerConfig(
        recipe="accumulated",
        output_dir=folder,
        max_steps=1,
        optimizer=OptimizerConfig(lr=1e-12, max_grad_norm=1e6),
        schedule=ScheduleConfig(warmup_steps=0),
        precision=Precision.FP32,
    )
    return replace(run, **changes)


def objective_of(model: str) -> FlavaObjective | ClipObjective:
    torch.manual_seed(0)
    if model == "clip":
        local = ClipObjectiveConfig(gather=Gather.LOCAL, ranks=WORKERS // world_size())
        return ClipObjective(local, tiny())
    return FlavaObjective(FlavaObjectiveConfig(), warm(tiny_model()))


def warm(model: Flava) -> Flava:
    """At a temperature at which contrast differs from that of a part."""
    torch.nn.init.constant_(model.logit_scale, 2.0)
    return model


def trimmed(batch: Any) -> Any:
    """Texts as long as the longest of the batch, as the loader makes them."""
    if isinstance(batch, TextBatch | TextInputs):
        length = int(batch.attention_mask.sum(dim=1).max())
        cut = {f.name: getattr(batch, f.name) for f in fields(batch)}
        tensors = {name: v[:, :length] for name, v in cut.items() if isinstance(v, Tensor)}
        return replace(batch, **tensors)
    inner = {"image", "text", "inputs"} & {f.name for f in fields(batch)}
    return replace(batch, **{name: trimmed(getattr(batch, name)) for name in inner})


def own_parts(kind: str, accumulate: int) -> Iterator[Batch]:
    """This rank's batches of an update: equal parts of the samples, one after another."""
    whole = together(differing(kind))
    size = len(whole.keys) // (world_size() * accumulate)
    for part in range(accumulate):
        first = (part * world_size() + rank()) * size
        yield trimmed(rows_of(whole, slice(first, first + size)))


def recorded(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Fills up with all gradients that the optimiser steps with, whole again where sharded."""
    found: list[dict[str, Tensor]] = []

    def record(*_: object) -> None:
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in gradients.items()}
        found.append({name: gradient.clone() for name, gradient in whole.items()})

    trainer.optimizer.register_step_pre_hook(record)
    return found


def train(folder: Path, case: Case) -> None:
    kinds = KINDS[case.model]
    run = config(
        folder / case.name,
        max_steps=len(kinds),
        accumulate=case.accumulate,
        parallel=case.parallel,
    )
    check(run)
    trainer = Trainer(run, objective_of(case.model), None)
    gradients = recorded(trainer)
    trainer.train(part for kind in kinds for part in own_parts(kind, case.accumulate))
    if rank() == 0:
        torch.save(gradients, folder / f"{case.name}.pt")


def train_all(folder: Path) -> None:
    for case in CASES:
        if case.ranks == world_size():
            train(folder, case)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, in four processes that are started once."""
    folder = tmp_path_factory.mktemp("accumulated")
    run_phases([(ranks, train_all) for ranks in RANKS], folder)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_losses_and_gradients_are_those_of_one_undivided_batch(trained: Path, case: Case) -> None:
    whole = UNDIVIDED[case.model]
    written = zip(rows(trained / whole.name), rows(trained / case.name), strict=True)
    for kind, (ours, theirs) in zip(KINDS[case.model], written, strict=True):
        losses = {name for name in ours if name.startswith("loss/")}
        assert losses == {name for name in theirs if name.startswith("loss/")}
        for name in losses | {"grad_norm"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5, abs=1e-6), (kind, name)
    wanted, found = (torch.load(trained / f"{each.name}.pt") for each in (whole, case))
    for kind, ours, theirs in zip(KINDS[case.model], wanted, found, strict=True):
        for name in ours.keys() | theirs.keys():
            # What no loss reads has no gradient, or zeros where ranks exchanged it.
            some = ours[name] if name in ours else theirs[name]
            pair = (each.get(name, torch.zeros_like(some)) for each in (theirs, ours))
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5, msg=f"{kind}: {name}")


def test_the_samples_are_worth_dividing() -> None:
    """Parts weigh differently for each loss, and hold some in which no pair matches."""
    parts = [part for part in differing("pairs") if isinstance(part, PairBatch)]
    counts = [(p.image.patch_mask.sum(), p.text.token_mask.sum(), p.matched.sum()) for p in parts]
    assert len({len(p.text.input_ids[0]) for p in parts}) > 1
    assert all(len({int(count) for count in each}) > 1 for each in zip(*counts, strict=True))
    assert min(int(matched) for _, _, matched in counts) == 0


# One process


def pairs(number: int) -> PairBatch:
    torch.manual_seed(100 + number)
    return random_pairs(tiny_config(), [5, 9, 3, 7], torch.ones(4, dtype=torch.bool))


def test_two_batches_of_four_pairs_are_contrasted_as_eight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # At the highest temperature that there is all answers are about as likely.
    model = Flava(tiny_config())
    torch.nn.init.zeros_(model.logit_scale)
    run = config(tmp_path, accumulate=2)
    Trainer(run, FlavaObjective(FlavaObjectiveConfig(), model), None).train(
        iter([pairs(0), pairs(1)])
    )
    (row,) = rows(tmp_path)
    assert row["loss/gc"] == pytest.approx(math.log(8), abs=0.1)


def test_in_16_bits_every_weight_has_the_gradient_that_it_has_undivided(tmp_path: Path) -> None:
    """Autocast keeps converted weights: those of the encoding without a graph must not be read by
    the one with."""

    def gradients(accumulate: int, batches: list[Batch]) -> dict[str, Tensor]:
        run = config(tmp_path / str(accumulate), accumulate=accumulate, precision=Precision.BF16)
        trainer = Trainer(run, objective_of("flava"), None)
        found = recorded(trainer)
        trainer.train(iter(batches))
        return found[0]

    parts = differing("whole pairs")[:2]
    whole, divided = gradients(1, [together(parts)]), gradients(2, parts)
    assert whole.keys() == divided.keys()
    for name, gradient in whole.items():
        error = (divided[name] - gradient).norm() / gradient.norm()
        assert error < 0.05, name


def test_what_is_dropped_at_random_is_the_same_whenever_the_run_is_made_again(
    tmp_path: Path,
) -> None:
    """The second encoding drops what the first did, and leaves the generators as it found them."""
    drawn = []
    for name in ("once", "again"):
        torch.manual_seed(0)
        tiny_flava = tiny_config()
        image = replace(tiny_flava.image, drop_path=0.5)
        model = Flava(replace(tiny_flava, image=image))
        trainer = Trainer(
            config(tmp_path / name, accumulate=2),
            FlavaObjective(FlavaObjectiveConfig(), model),
            None,
        )
        features: list[Tensor] = []
        encode = model.encode_image
        model.encode_image = partial(kept, encode, features)
        trainer.train(iter([pairs(0), pairs(1)]))
        assert torch.equal(features[0], features[2])
        assert torch.equal(features[1], features[3])
        assert not torch.equal(features[0], features[1])
        drawn.append(torch.stack(features))
    assert torch.equal(*drawn)


def kept(encode: Any, found: list[Tensor], pixels: Tensor) -> Tensor:
    features = encode(pixels)
    found.append(features.detach())
    return features

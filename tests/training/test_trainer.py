import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch
from flava.models import Codebook
from flava.objectives import LossOutput
from flava.training.checkpoint import load_progress
from flava.training.optimizer import (
    OptimizerConfig,
    ScheduleConfig,
    learning_rate_factor,
    weight_decay_at,
)
from flava.training.trainer import Trainer
from tests.tiny_runs import CODEBOOK, MeanSquare, codebook_run, image_batch, image_batches, rows
from tests.training.trainers import same, trained, trainer_of, weights


def joined(batches: Sequence[int], size: int) -> Iterator[Batch]:
    """Batches by number, each of them cut into parts of ``size``."""
    for number in batches:
        whole = image_batch(number)
        for first in range(0, 4, size):
            part = slice(first, first + size)
            yield replace(
                whole,
                keys=whole.keys[part],
                pixels=whole.pixels[part],
                codebook_pixels=whole.codebook_pixels[part],
                patch_mask=whole.patch_mask[part],
            )


# An update


@pytest.mark.parametrize("size", [2, 1])
def test_accumulated_parts_of_a_batch_train_as_the_whole_batch(tmp_path, size):
    # Adam's eps is large, lest it blow rounding errors of tiny gradients up.
    optimizer = OptimizerConfig(lr=1e-2, eps=1e-3, max_grad_norm=0.05)
    whole = codebook_run(tmp_path / "whole", max_steps=3, optimizer=optimizer)
    parts = replace(whole, output_dir=tmp_path / "parts", accumulate=4 // size)
    expected = trained(whole, joined((0, 1, 2), 4))
    found = trained(parts, joined((0, 1, 2), size))
    for name, value in weights(expected).items():
        assert torch.allclose(weights(found)[name], value, rtol=1e-4, atol=1e-6), name
    for ours, theirs in zip(rows(whole.output_dir), rows(parts.output_dir), strict=True):
        for name in ("loss/total", "loss/codes", "loss/size", "grad_norm", "accuracy/codes"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_and_the_row_tells_what_it_was(run):
    trainer = trainer_of(replace(run, max_steps=1, optimizer=OptimizerConfig(max_grad_norm=1e-3)))
    used: list[torch.Tensor] = []

    def record(*_: object) -> None:
        used.extend(
            p.grad.flatten().clone()
            for p in trainer.parallel.trainable_parameters
            if p.grad is not None
        )

    trainer.optimizer.register_step_pre_hook(record)
    reference = MeanSquare(Codebook(CODEBOOK))
    reference.model.load_state_dict(trainer.model.state_dict())
    losses = [term.loss for term in reference(image_batch(0)).values()]
    (losses[0] + losses[1]).backward()
    gradients = [p.grad.flatten() for p in reference.model.parameters() if p.grad is not None]
    norm = torch.cat(gradients).norm().item()
    trainer.train(image_batches())
    assert norm > 1e-3
    assert rows(run.output_dir)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert torch.allclose(torch.cat(used), torch.cat(gradients) / norm * 1e-3, rtol=1e-3)


def test_the_rate_follows_the_schedule_in_every_group(run):
    run = replace(run, schedule=ScheduleConfig(warmup_steps=3, final_fraction=0.1))
    trainer, used = trainer_of(run), []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append({g["lr"] for g in optimizer.param_groups})
    )
    trainer.train(image_batches())
    expected = [1e-2 * learning_rate_factor(run.schedule, step, 6) for step in range(6)]
    assert used == [{rate} for rate in expected]
    assert [row["lr"] for row in rows(run.output_dir)] == expected


def test_the_weight_decay_follows_its_schedule_where_there_is_any(run):
    optimizer = OptimizerConfig(lr=1e-2, weight_decay=0.1, final_weight_decay=0.5)
    trainer, used = trainer_of(replace(run, optimizer=optimizer)), []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append([g["weight_decay"] for g in optimizer.param_groups])
    )
    trainer.train(image_batches())
    assert used == [[weight_decay_at(optimizer, step, 6), 0.0] for step in range(6)]
    assert used[0][0] == pytest.approx(0.1)


def test_the_objective_is_told_of_every_update(run):
    trainer = trainer_of(run)
    trainer.train(image_batches())
    assert isinstance(trainer.objective, MeanSquare)
    assert trainer.objective.steps == [1, 2, 3, 4, 5, 6]


# Metrics


def test_there_is_a_row_an_update(run):
    trained(replace(run, accumulate=2))
    found = rows(run.output_dir)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row in found:
        assert set(row) == {
            "step",
            "batch",
            "loss/total",
            "loss/codes",
            "loss/size",
            "accuracy/codes",
            "lr",
            "grad_norm",
            "samples_per_second",
            "data_seconds",
            "forward_seconds",
            "backward_seconds",
            "optimizer_seconds",
            "seconds",
            "memory_gib",
        }
        assert row["batch"] == "images"
        assert row["loss/total"] == pytest.approx(row["loss/codes"] + row["loss/size"])
        assert row["accuracy/codes"] == 0.25
        assert 0.01 < row["memory_gib"] < 64
        assert row["data_seconds"] < row["seconds"]
    seconds = [0.0, *(row["seconds"] for row in found)]
    for row, before, after in zip(found, seconds, seconds[1:], strict=False):
        assert row["samples_per_second"] == pytest.approx(2 * 4 / (after - before))


def test_tensorboard_holds_the_same_figures(run):
    trained(run)
    board = EventAccumulator(str(run.output_dir / "tensorboard"))
    board.Reload()
    for name in ("loss/total", "accuracy/codes", "lr", "grad_norm"):
        found = {event.step: event.value for event in board.Scalars(name)}
        assert found == {row["step"]: pytest.approx(row[name]) for row in rows(run.output_dir)}


# Numbers that are not finite


class Exploding(MeanSquare):
    """Yields an infinite loss, or a finite loss with an infinite gradient, at one update."""

    def __init__(self, model: Codebook, at: int, kind: str) -> None:
        super().__init__(model)
        self.at, self.kind = at, kind

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        terms = super().__call__(batch)
        if len(self.steps) == self.at:
            loss = terms["codes"].loss
            bad = loss / 0 if self.kind == "loss" else (loss - loss.detach()).sqrt()
            terms["codes"] = LossOutput(bad)
        return terms


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("kind", "figure"), [("loss", "loss/codes"), ("gradient", "grad_norm")])
def test_a_number_that_is_not_finite_stops_the_run_with_evidence(run, kind, figure, accumulate):
    run = replace(run, checkpoint_every=2, accumulate=accumulate, max_non_finite=0)
    torch.manual_seed(0)
    trainer = Trainer(run, Exploding(Codebook(CODEBOOK), 3, kind), None)
    seen: list[dict[str, torch.Tensor]] = []
    trainer.optimizer.register_step_post_hook(lambda *_: seen.append(weights(trainer)))
    with pytest.raises(FloatingPointError, match="step 4 gave numbers that are not") as error:
        trainer.train(image_batches())
    assert same(weights(trainer), seen[2])
    evidence = run.output_dir / "non-finite-step-4.json"
    for expected in (str(evidence), figure, "optimizer.lr", "--output-dir"):
        assert expected in str(error.value)
    found = json.loads(evidence.read_text())
    assert found["step"] == 4
    assert found["lr"] == pytest.approx(1e-2 * learning_rate_factor(run.schedule, 3, 6))
    assert not math.isfinite(float(found["grad_norm"]))
    assert len(found["batches"]) == accumulate
    for number, batch in enumerate(found["batches"], 3 * accumulate):
        assert batch["keys"] == [f"{number}-{i}" for i in range(4)]
        assert batch["kind"] == "images"
        assert math.isfinite(float(batch["loss/size"]))
        assert math.isfinite(float(batch["loss/codes"])) == (kind == "gradient")
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3]
    assert load_progress(run.output_dir / "checkpoints" / "last").step == 2
    assert same(load_pretrained(run.output_dir).state_dict(), seen[1])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_an_update_of_bad_numbers_is_left_out_and_counted(run, kind):
    torch.manual_seed(0)
    trainer = Trainer(replace(run, max_non_finite=1), Exploding(Codebook(CODEBOOK), 3, kind), None)
    made: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: made.append(trainer.step + 1))
    trainer.train(image_batches())
    assert made == [1, 2, 3, 5, 6]
    found = rows(run.output_dir)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.get("non_finite") for row in found] == [None, None, None, 1, None, None]
    bad = "loss/codes" if kind == "loss" else "grad_norm"
    assert [row[bad] is None for row in found] == [False, False, False, True, False, False]
    assert (run.output_dir / "non-finite-step-4.json").is_file()
    assert load_progress(run.output_dir / "checkpoints" / "last").non_finite == 1
    again = Trainer(
        replace(run, max_non_finite=1, max_steps=9, resume=True),
        Exploding(Codebook(CODEBOOK), 1, kind),
        None,
    )
    with pytest.raises(FloatingPointError, match=r"step 7 .* and 1 before it"):
        again.train(image_batches(first=6))

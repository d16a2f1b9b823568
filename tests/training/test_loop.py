import json
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from flava.batch import Batch
from flava.model import Codebook
from flava.objectives import Term
from flava.training.checkpoint import load_model, load_state
from flava.training.loop import Interrupted, Probe, Trainer
from flava.training.optimizer import OptimizerConfig
from flava.training.run import Run, load_run
from flava.training.schedule import ScheduleConfig, learning_rate_factor
from tests.tiny_runs import (
    CODEBOOK,
    MeanSquare,
    codebook_run,
    content,
    figures,
    folders,
    image_batch,
    image_batches,
    rows,
)


@pytest.fixture
def run(tmp_path) -> Run:
    return codebook_run(tmp_path / "run")


def trainer_of(run: Run, probe: Probe | None = None) -> Trainer:
    torch.manual_seed(run.seed)
    return Trainer(run, MeanSquare(Codebook(CODEBOOK)), probe)


def trained(run: Run, batches: Iterator[Batch] | None = None) -> Trainer:
    trainer = trainer_of(run)
    trainer.train(batches or image_batches())
    return trainer


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


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
                selected=whole.selected[part],
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
        used.extend(p.grad.flatten().clone() for p in trainer.trained if p.grad is not None)

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


# Probes and checkpoints


class Probing:
    """A probe whose figures are given."""

    def __init__(self, *values: float) -> None:
        self.values, self.steps = iter(values), []

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training
        assert torch.is_inference_mode_enabled()
        self.steps.append(step)
        return {"good": next(self.values), "other": -step}


def test_the_best_checkpoint_is_that_of_the_highest_first_figure(run):
    run = replace(run, max_steps=9, probe_every=2, checkpoint_every=3)
    probe = Probing(0.1, 0.5, 0.5, 0.3, 0.4)
    trainer = trainer_of(run, probe)
    trainer.train(image_batches())
    assert trainer.model.training
    assert probe.steps == [2, 4, 6, 8, 9]
    found = [row for row in rows(run.output_dir) if "probe/good" in row]
    assert [row["probe/good"] for row in found] == [0.1, 0.5, 0.5, 0.3, 0.4]
    assert [row["probe/other"] for row in found] == [-2, -4, -6, -8, -9]
    checkpoints = run.output_dir / "checkpoints"
    assert folders(checkpoints) == {"step-000004", "step-000009"}
    assert load_state(checkpoints / "best")["step"] == 4
    assert load_state(checkpoints / "last")["step"] == 9
    assert same(load_model(checkpoints / "last").state_dict(), weights(trainer))
    four = codebook_run(run.output_dir / "four", max_steps=9)
    with pytest.raises(RuntimeError, match="end"):
        trainer_of(four, None).train(ending_after(4))
    assert [r["loss/total"] for r in rows(four.output_dir)] == [
        r["loss/total"] for r in rows(run.output_dir) if r["step"] <= 4 and "loss/total" in r
    ]


def ending_after(count: int) -> Iterator[Batch]:
    yield from (image_batch(number) for number in range(count))
    raise RuntimeError("end")


def test_the_last_checkpoint_is_never_older_than_the_best(run):
    # Else a resumed run would go back behind it, and a fresh one would not notice it.
    run = replace(run, probe_every=2, checkpoint_every=100)
    with pytest.raises(RuntimeError, match="end"):
        trainer_of(run, Probing(0.1, 0.2)).train(ending_after(3))
    assert load_state(run.output_dir / "checkpoints" / "last")["step"] == 2
    with pytest.raises(ValueError, match="already holds a run"):
        trainer_of(run)


def test_the_rest_of_a_killed_run_is_not_taken_for_this_runs_checkpoint(run):
    # Killed after the folder got its name and before a link stood for it.
    rest = run.output_dir / "checkpoints" / "step-000006"
    rest.mkdir(parents=True)
    (rest / "model.safetensors").write_bytes(b"of another run")
    trainer = trained(run)
    assert same(load_model(run.output_dir).state_dict(), weights(trainer))


# Numbers that are not finite


class Exploding(MeanSquare):
    """Yields an infinite loss, or a finite loss with an infinite gradient, at one update."""

    def __init__(self, model: Codebook, at: int, kind: str) -> None:
        super().__init__(model)
        self.at, self.kind = at, kind

    def __call__(self, batch: Batch) -> dict[str, Term]:
        terms = super().__call__(batch)
        if len(self.steps) == self.at:
            loss = terms["codes"].loss
            bad = loss / 0 if self.kind == "loss" else (loss - loss.detach()).sqrt()
            terms["codes"] = Term(bad)
        return terms


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("kind", "figure"), [("loss", "loss/codes"), ("gradient", "grad_norm")])
def test_a_number_that_is_not_finite_stops_the_run_with_evidence(run, kind, figure, accumulate):
    run = replace(run, checkpoint_every=2, accumulate=accumulate)
    torch.manual_seed(0)
    trainer = Trainer(run, Exploding(Codebook(CODEBOOK), 3, kind), None)
    seen: list[dict[str, torch.Tensor]] = []
    trainer.optimizer.register_step_post_hook(lambda *_: seen.append(weights(trainer)))
    with pytest.raises(FloatingPointError, match="update 4 gave a number that is not") as error:
        trainer.train(image_batches())
    assert same(weights(trainer), seen[2])
    evidence = run.output_dir / "non-finite-step-4.json"
    for expected in (str(evidence), figure, "optimizer.lr", "--output-dir"):
        assert expected in str(error.value)
    found = json.loads(evidence.read_text())
    assert found["step"] == 4
    assert figure in found["figures"]
    drawn = [3] if accumulate == 1 else [9] if kind == "loss" else [9, 10, 11]
    assert found["keys"] == [f"{number}-{i}" for number in drawn for i in range(4)]
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3]
    assert load_state(run.output_dir / "checkpoints" / "last")["step"] == 2
    assert same(load_model(run.output_dir).state_dict(), seen[1])


# Signals


def signalling(at: int, *numbers: signal.Signals) -> Iterator[Batch]:
    """Batches; before one of them this process gets signals."""
    for number, batch in enumerate(image_batches()):
        if number == at:
            for each in numbers:
                signal.raise_signal(each)
        yield batch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_checkpoint_and_goes_on_as_if_nothing_had_been(
    run, tmp_path, number
):
    through = replace(run, output_dir=tmp_path / "through")
    expected = trained(through)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        trained(run, signalling(2, number))
    assert signal.getsignal(number) == before
    assert "stopped after 3 of 6 updates" in str(stop.value)
    assert "run the same command with --resume" in str(stop.value)
    assert load_state(run.output_dir / "checkpoints" / "last")["step"] == 3
    trainer = trainer_of(replace(run, resume=True))
    assert trainer.step == 3
    trainer.train(image_batches(first=3))
    assert same(weights(trainer), weights(expected))
    assert figures(run.output_dir) == figures(through.output_dir)


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_earlier_checkpoint(run):
    run = replace(run, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(run, signalling(3, signal.SIGINT, signal.SIGINT))
    assert load_state(run.output_dir / "checkpoints" / "last")["step"] == 2
    assert folders(run.output_dir / "checkpoints") == {"step-000002"}
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3]
    resumed = trainer_of(replace(run, resume=True))
    resumed.train(image_batches(first=2))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_done_was_not_interrupted(run):
    trainer = trained(run, signalling(5, signal.SIGINT))
    assert trainer.step == 6
    assert load_state(run.output_dir / "checkpoints" / "last")["step"] == 6


# The folder


def test_a_folder_in_use_is_an_error_without_resume(run):
    trained(run)
    before = content(run.output_dir)
    with pytest.raises(ValueError, match="already holds a run") as error:
        trainer_of(run)
    for expected in (str(run.output_dir), "--resume", "--output-dir"):
        assert expected in str(error.value)
    assert content(run.output_dir) == before


def test_resuming_with_another_config_lists_every_difference(run):
    trained(run)
    before = content(run.output_dir)
    other = replace(
        run, resume=True, seed=7, accumulate=2, optimizer=OptimizerConfig(lr=0.5), max_steps=9
    )
    with pytest.raises(ValueError, match="is another one") as error:
        trainer_of(other)
    for expected in ("seed: 0 in the saved run, 7 now", "accumulate: 1", "optimizer.lr: 0.01"):
        assert expected in str(error.value)
    assert "max_steps" not in str(error.value)
    assert content(run.output_dir) == before


def test_a_finished_run_that_is_resumed_stays_as_it_is(run):
    trained(run)
    before = content(run.output_dir)
    trained(replace(run, resume=True), ending_after(0))
    after = content(run.output_dir)
    assert load_run(run.output_dir / "run.json") == replace(run, resume=True)
    assert {k: v for k, v in after.items() if k != "run.json"} == {
        k: v for k, v in before.items() if k != "run.json"
    }


def test_resume_without_a_checkpoint_starts_the_run(run):
    trained(replace(run, resume=True))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_rows_of_a_run_that_never_wrote_a_checkpoint_go(run):
    with pytest.raises(RuntimeError, match="end"):
        trained(run, ending_after(4))
    with (run.output_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss/to')  # killed while writing
    trained(run)
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_cannot_be_made_is_an_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"output_dir .*file/run cannot be made.*--output-dir"):
        trainer_of(replace(run, output_dir=tmp_path / "file" / "run"))


def test_a_full_disk_during_training_keeps_rows_and_checkpoint(run, monkeypatch):
    run = replace(run, checkpoint_every=2)
    trainer = trainer_of(run)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    def batches() -> Iterator[Batch]:
        for number, batch in enumerate(image_batches()):
            if number == 3:
                monkeypatch.setattr("flava.training.checkpoint.save_file", full)
            yield batch

    with pytest.raises(OSError, match=r"step-000004 could not be written.*No space left"):
        trainer.train(batches())
    monkeypatch.undo()
    assert folders(run.output_dir / "checkpoints") == {"step-000002"}
    resumed = trainer_of(replace(run, resume=True))
    resumed.train(image_batches(first=2))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]

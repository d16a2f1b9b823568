"""The loop's checkpoints: which there are, what interrupts a run, and how it goes on."""

import math
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch
from flava.training.checkpoint import load_progress
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig
from flava.training.run import Run
from flava.training.trainer_config import load_config
from tests.tiny_runs import content, figures, folders, image_batches, rows
from tests.training.trainers import ending_after, same, trained, trainer_of, weights

# Probes and checkpoints


class Probing:
    """A probe whose figures are given."""

    def __init__(self, *values: float) -> None:
        self.values = iter(values)
        self.steps: list[int] = []
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training
        assert torch.is_inference_mode_enabled()
        self.steps.append(step)
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"good": next(self.values), "other": -step}


def test_the_best_checkpoint_is_that_of_the_highest_first_figure(run):
    run = replace(run, max_steps=9, validate_every=2, checkpoint_every=3)
    probe = Probing(0.1, 0.5, 0.5, 0.3, 0.4)
    trainer = trainer_of(run, probe)
    trainer.train(image_batches())
    assert trainer.model.training
    assert probe.steps == [2, 4, 6, 8, 9]
    found = [row for row in rows(run.output_dir) if "validation/good" in row]
    assert [row["validation/good"] for row in found] == [0.1, 0.5, 0.5, 0.3, 0.4]
    assert [row["validation/other"] for row in found] == [-2, -4, -6, -8, -9]
    checkpoints = run.output_dir / "checkpoints"
    assert folders(checkpoints) == {"step-000004", "step-000009"}
    assert load_progress(checkpoints / "best").step == 4
    assert load_progress(checkpoints / "last").step == 9
    assert same(load_pretrained(checkpoints / "last").state_dict(), weights(trainer))
    assert same(load_pretrained(checkpoints / "best").state_dict(), probe.seen[1])


def test_within_the_tolerance_of_the_highest_figure_the_later_checkpoint_is_best(run):
    """0.45 and 0.42 are within 0.1 of 0.5, 0.35 is not; the highest is not forgotten."""
    run = replace(run, max_steps=10, validate_every=2, checkpoint_every=3, validation_tolerance=0.1)
    trainer_of(run, Probing(0.1, 0.5, 0.45, 0.42, 0.35)).train(image_batches())
    checkpoints = run.output_dir / "checkpoints"
    assert load_progress(checkpoints / "best").step == 8
    assert load_progress(checkpoints / "best").best == 0.5


def test_a_figure_that_is_no_number_is_never_the_best(run):
    run = replace(run, max_steps=3, validate_every=1)
    trainer_of(run, Probing(0.5, math.nan, 0.3)).train(image_batches())
    assert (run.output_dir / "checkpoints" / "best").resolve().name == "step-000001"


def test_the_last_checkpoint_is_never_older_than_the_best(run):
    # Else a resumed run would go back behind it, and a fresh one would not notice it.
    run = replace(run, validate_every=2, checkpoint_every=100)
    with pytest.raises(RuntimeError, match="end"):
        trainer_of(run, Probing(0.1, 0.2)).train(ending_after(3))
    assert load_progress(run.output_dir / "checkpoints" / "last").step == 2
    with pytest.raises(ValueError, match="already holds a run"):
        trainer_of(run)


def test_the_rest_of_a_killed_run_is_not_taken_for_this_runs_checkpoint(run):
    # Killed after the folder got its name and before a link stood for it.
    rest = run.output_dir / "checkpoints" / "step-000006"
    rest.mkdir(parents=True)
    (rest / "model.safetensors").write_bytes(b"of another run")
    trainer = trained(run)
    assert same(load_pretrained(run.output_dir).state_dict(), weights(trainer))


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
    assert "stopped after 3 of 6 steps" in str(stop.value)
    assert "run the same command with --resume" in str(stop.value)
    assert load_progress(run.output_dir / "checkpoints" / "last").step == 3
    trainer = trainer_of(replace(run, resume=True))
    assert trainer.step == 3
    trainer.train(image_batches(first=3))
    assert same(weights(trainer), weights(expected))
    assert figures(run.output_dir) == figures(through.output_dir)


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_earlier_checkpoint(run):
    run = replace(run, checkpoint_every=2)
    with pytest.raises(KeyboardInterrupt):
        trained(run, signalling(3, signal.SIGINT, signal.SIGINT))
    assert load_progress(run.output_dir / "checkpoints" / "last").step == 2
    assert folders(run.output_dir / "checkpoints") == {"step-000002"}
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3]
    resumed = trainer_of(replace(run, resume=True))
    resumed.train(image_batches(first=2))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_is_done_was_not_interrupted(run):
    trainer = trained(run, signalling(5, signal.SIGINT))
    assert trainer.step == 6
    assert load_progress(run.output_dir / "checkpoints" / "last").step == 6


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
    assert load_config(run.output_dir / "run.json", Run) == replace(run, resume=True)
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
                trainer.writer.wait()  # for the checkpoint after update 2
                monkeypatch.setattr("flava.checkpoints.native.save_file", full)
            yield batch

    with pytest.raises(OSError, match=r"step-000004 could not be written.*No space left"):
        trainer.train(batches())
    monkeypatch.undo()
    assert folders(run.output_dir / "checkpoints") == {"step-000002"}
    resumed = trainer_of(replace(run, resume=True))
    resumed.train(image_batches(first=2))
    assert [row["step"] for row in rows(run.output_dir)] == [1, 2, 3, 4, 5, 6]

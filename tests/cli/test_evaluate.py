"""`flava evaluate` and `flava report` as a user calls them, on tasks of our own."""

import csv
import json
from pathlib import Path

import pytest
import torch

from flava.cli import evaluate, main
from flava.models import Flava
from flava.suite.results_file import FILE
from flava.training.checkpoint import save_checkpoint
from tests.evaluation.corpus import tiny_geometry
from tests.suite.tasks import data_for, figure, made_task

MNIST = made_task("mnist", figure("mnist", 0.75), rows=(("MNIST", "accuracy"),))
SST = made_task("sst-2", figure("sst-2", 0.5), rows=(("SST-2", "accuracy"),), group="nlp")
GROUPS = {"vision": (MNIST,), "nlp": (SST,)}


@pytest.fixture(autouse=True)
def suite(monkeypatch):
    """The command line with two tasks."""
    monkeypatch.setattr(evaluate, "TASKS", (MNIST, SST))
    monkeypatch.setattr(evaluate, "select", lambda names: select(names, GROUPS))


select = evaluate.select


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "run" / "checkpoints", "last", Flava(tiny_geometry()))
    return tmp_path / "run"


def call(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_evaluate_then_report(run_folder, tmp_path, capsys):
    data = data_for(tmp_path / "data", MNIST)
    command = ("evaluate", run_folder, "--tasks", "vision,nlp", "--data-root", data)
    assert call(*command, "--few", 5, "--device", "cpu") == 1
    captured = capsys.readouterr()
    assert "1 of 2 tasks have no figures; those of the others are in" in captured.err
    assert f"sst-2: there is no folder {data / 'sst-2-data'}" in captured.err
    (line,) = (run_folder / FILE).read_text().splitlines()
    assert json.loads(line)["settings"]["few"] == 5

    data_for(data, SST)
    assert call(*command, "--few", 5, "--device", "cpu") == 0
    captured = capsys.readouterr()
    assert "2 tasks measured" in captured.out
    assert "is in the results already" in captured.err

    output = tmp_path / "table"
    assert call("report", run_folder, "--output", output, "--paper", "clip-400m") == 0
    assert "paper: clip-400m" in capsys.readouterr().out
    rows = {row["task"]: row for row in csv.DictReader((output / "table.csv").open())}
    label = f"{run_folder} (few: 5)"
    (column,) = [name for name in rows["MNIST"] if name.endswith("(few: 5)")]
    assert label.endswith(column.removeprefix("\N{HORIZONTAL ELLIPSIS}"))
    assert (rows["MNIST"]["paper: clip-400m"], rows["MNIST"][column]) == ("99.0100", "75.0000")
    assert rows["SST-2"][column] == "50.0000"


def test_dry_run_needs_no_model(tmp_path, capsys):
    data = data_for(tmp_path / "data", SST)
    assert call("evaluate", "--dry-run", "--data-root", data) == 0
    captured = capsys.readouterr().out
    assert "the data of 1 of 2 tasks is in" in " ".join(captured.split())
    assert "licence of mnist" in " ".join(captured.split())
    assert call("evaluate", "--dry-run", "--data-root", data, "--tasks", "nlp") == 0
    captured = capsys.readouterr().out
    assert "found" in captured
    assert "mnist" not in captured


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("evaluate",), "give a run's folder, a file of weights or a model's id"),
        (("evaluate", "run", "--few", 3), "--few: only with --tasks"),
        (
            ("evaluate", "run", "--data-root", ".", "--cache", "x"),
            "--data-root, --cache: only with --tasks",
        ),
        (("evaluate", "run", "--tasks", "nlp"), "each data set with --data-root"),
        (("evaluate", "--dry-run"), "each data set with --data-root"),
        (("evaluate", "--tasks", "nlp", "--data-root", "."), "give a run's folder, a file of"),
        (
            ("evaluate", "run", "--tasks", "cifar", "--data-root", "."),
            "no task is called cifar. Give some of these groups and tasks, separated by commas:\n"
            "  vision: mnist\n  nlp: sst-2\n",
        ),
        (
            ("evaluate", "some/model", "--tasks", "nlp", "--data-root", "."),
            "there is no folder some/model: check the path; or, if it is a model's id on the hub",
        ),
        (
            ("evaluate", "run", "--tasks", "nlp", "--data-root", "no", "--output-dir", "out"),
            "there is no folder no: give the one that holds",
        ),
        (("report",), "give a run's folder, or results of"),
        (("report", "a", "b"), "a/results.jsonl is missing"),
        (("report", "nowhere"), "no run at nowhere"),
        (("report", "gone.jsonl"), "gone.jsonl is missing"),
    ],
)
def test_mistakes_are_told(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 1
    captured = capsys.readouterr()
    assert expected in captured.err
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_results_too_is_reported_as_a_run(run_folder, capsys):
    (run_folder / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "seconds": 1.0, "samples_per_second": 2.0, "loss/total": 3.0}) + "\n"
    )
    assert call("report", run_folder) == 0
    assert capsys.readouterr().out == f"report: {run_folder / 'report.html'}\n"
    (run_folder / FILE).write_text("")
    assert call("report", run_folder) == 0
    assert f"flava report {run_folder / FILE}" in capsys.readouterr().out

"""The suite's loop and results.jsonl, with tasks whose figures are known."""

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from flava.checkpoints.digests import weights_digest
from flava.inference.export import export
from flava.models import Codebook, Flava
from flava.suite.results_file import FILE, add_results, read_results
from flava.suite.run_suite import evaluate_suite
from flava.suite.task import Settings, SuiteTask
from flava.training.checkpoint import save_checkpoint
from flava.training.launch import Interrupted
from tests.evaluation.corpus import tiny_geometry
from tests.suite.tasks import data_for, figure, made_task, result


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    return save_checkpoint(folder, "last", Flava(tiny_geometry()))


def settings_of(folder: Path, **changes: Any) -> Settings:
    return replace(Settings(data_root=folder / "data", cache=folder / "cache"), **changes)


def run(model: Path, folder: Path, tasks: list[SuiteTask], **changes: Any) -> str:
    return evaluate_suite(model, tasks, settings_of(folder, **changes), folder / "out")


def lines(folder: Path) -> list[dict[str, Any]]:
    """As another program would read them."""
    return [json.loads(line) for line in (folder / "out" / FILE).read_text().splitlines()]


def test_a_line_holds_a_figure_and_all_that_produced_it(model, tmp_path, capsys):
    task = made_task(
        "cola",
        figure("cola", 0.9),
        figure("cola", -0.25, "matthews", "validation"),
        rows=(("COLA", "matthews"),),
        group="nlp",
    )
    data_for(tmp_path / "data", task)
    said = run(model, tmp_path, [task], few=7, seed=3)
    assert str(tmp_path / "out" / FILE) in said
    first, second = lines(tmp_path)
    assert (first["metric"], first["value"], first["row"]) == ("accuracy", 0.9, None)
    assert second | {} == {
        **second,
        "task": "cola",
        "split": "validation",
        "metric": "matthews",
        "value": -0.25,
        "n": 200,
        "baselines": {"majority": 0.1},
        "row": "COLA",
        "model": str(model),
    }
    assert second["settings"] == {
        "data_root": str((tmp_path / "data").resolve()),
        "few": 7,
        "seed": 3,
        "precision": "bf16",
        "batch_size": 64,
    }
    assert second["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert second["machine"]["cores"] >= 1
    assert second["seconds"] >= 0
    assert second["date"].endswith("+00:00")
    progress = capsys.readouterr().err
    assert "[1/1] cola" in progress
    assert "matthews -0.2500 on validation (n = 200; majority 0.100)" in progress


def test_the_weights_are_told_by_their_content_not_by_their_file(model, tmp_path):
    torch.manual_seed(0)
    flava = Flava(tiny_geometry())
    first = weights_digest(flava)
    digest = hashlib.sha256()
    for name, tensor in sorted(flava.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    assert first == digest.hexdigest()
    with torch.no_grad():
        next(flava.parameters()).view(-1)[0] += 1e-3
    assert weights_digest(flava) != first
    assert weights_digest(flava.to(torch.bfloat16)) != first
    # The same weights in the published layout are the same model.
    calls: list[str] = []
    task = made_task("a", figure("a", 0.5), calls=calls)
    data_for(tmp_path / "data", task)
    run(model, tmp_path, [task])
    torch.manual_seed(0)
    export(Flava(tiny_geometry()), tmp_path / "published", "flava")
    run(tmp_path / "published", tmp_path, [task])
    assert calls == ["a"]


def test_what_is_there_is_not_measured_again(model, tmp_path):
    calls: list[str] = []
    a, b = (made_task(name, figure(name, 0.5), calls=calls) for name in "ab")
    data_for(tmp_path / "data", a, b)
    run(model, tmp_path, [a])
    before = lines(tmp_path)
    run(model, tmp_path, [a, b])
    assert calls == ["a", "b"]
    assert lines(tmp_path)[:1] == before
    # Another place for features changes no figure; another seed may.
    run(model, tmp_path, [a, b], cache=tmp_path / "elsewhere")
    assert calls == ["a", "b"]
    run(model, tmp_path, [a], seed=1)
    run(model, tmp_path, [a], few=10)
    assert calls == ["a", "b", "a", "a"]
    # And so may other weights.
    torch.manual_seed(1)
    other = save_checkpoint(tmp_path / "other", "last", Flava(tiny_geometry()))
    run(other, tmp_path, [a])
    assert calls == ["a", "b", "a", "a", "a"]
    assert len(lines(tmp_path)) == 5


KILLED = """
import os, signal, sys
from pathlib import Path
from flava.suite.run_suite import evaluate_suite
from flava.suite.task import Settings
from tests.suite.tasks import data_for, figure, made_task

model, folder = Path(sys.argv[1]), Path(sys.argv[2])

def die(model, settings):
    os.kill(os.getpid(), signal.SIGKILL)

tasks = [made_task("a", figure("a", 0.25), figure("a", 0.75)), made_task("b", measure=die)]
settings = Settings(data_root=data_for(folder / "data", *tasks), cache=folder / "cache")
evaluate_suite(model, tasks, settings, folder / "out")
"""


def test_a_killed_process_leaves_whole_tasks_and_the_next_goes_on(model, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", dedent(KILLED), str(model), str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [(each["task"], each["value"]) for each in lines(tmp_path)] == [("a", 0.25), ("a", 0.75)]
    calls: list[str] = []
    tasks = [made_task(name, figure(name, 0.5), calls=calls) for name in "ab"]
    run(model, tmp_path, tasks)
    assert calls == ["b"]
    assert [(each["task"], each["value"]) for each in lines(tmp_path)] == [
        ("a", 0.25),
        ("a", 0.75),
        ("b", 0.5),
    ]


def failing(error: BaseException):
    def measure(_model: object, _settings: Settings):
        raise error

    return measure


def test_a_task_that_fails_leaves_the_others_and_is_told_at_the_end(model, tmp_path, capsys):
    calls: list[str] = []
    tasks = [
        made_task("labels", measure=failing(ValueError("labels.csv:\n  line 3: no label"))),
        made_task("first", figure("first", 0.5), calls=calls),
        made_task("gone", figure("gone", 0.5), calls=calls),
        made_task("bug", measure=failing(KeyError("width"))),
        made_task("nan", figure("nan", float("nan"))),
        made_task("empty", figure("empty", 0.5), rows=(("MNIST", "mean_per_class"),)),
        made_task("last", figure("last", 0.5), calls=calls),
    ]
    data_for(tmp_path / "data", *(task for task in tasks if task.name != "gone"))
    with pytest.raises(ValueError) as caught:
        run(model, tmp_path, tasks)
    assert calls == ["first", "last"]
    assert [each["task"] for each in lines(tmp_path)] == ["first", "last"]
    said = str(caught.value)
    assert said.startswith("5 of 7 tasks have no figures; those of the others are in")
    for reason in (
        "labels: labels.csv:\n      line 3: no label",
        f"gone: there is no folder {tmp_path / 'data' / 'gone-data'}",
        "bug: KeyError: 'width'",
        "nan: nan/test/accuracy is nan",
        "empty: there is no mean_per_class for the row MNIST",
    ):
        assert reason in said
    assert "failed: labels.csv" in capsys.readouterr().err
    # With the data there, the same command does what is left.
    (tmp_path / "data" / "gone-data").mkdir()
    (tmp_path / "data" / "gone-data" / "data.txt").write_text("here")
    with pytest.raises(ValueError, match="4 of 7 tasks"):
        run(model, tmp_path, tasks)
    assert calls == ["first", "last", "gone"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("go on with --resume")])
def test_an_interruption_is_no_failed_task(model, tmp_path, stop):
    tasks = [
        made_task("a", figure("a", 0.5)),
        made_task("b", measure=failing(stop)),
        made_task("c", figure("c", 0.5)),
    ]
    data_for(tmp_path / "data", *tasks)
    with pytest.raises(type(stop)):
        run(model, tmp_path, tasks)
    assert [each["task"] for each in lines(tmp_path)] == ["a"]


def test_where_no_data_is_there_nothing_is_loaded(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match=r"2 of 2 tasks have no figures\. `flava evaluate --dry"):
        run(Path("no/model"), tmp_path, [made_task("a"), made_task("b")])
    assert not (tmp_path / "out").exists()


def test_settings_and_models_that_do_not_hold_are_told_before_anything(model, tmp_path):
    task = made_task("a", figure("a", 0.5))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*data: give the one"):
        run(model, tmp_path, [task])
    data_for(tmp_path / "data", task)
    with pytest.raises(ValueError, match=r"--few is 0: use at least 1\n.*--batch-size is -1"):
        run(model, tmp_path, [task], few=0, batch_size=-1)
    codebook = save_checkpoint(tmp_path / "codebook", "last", Codebook(tiny_geometry().codebook))
    with pytest.raises(ValueError, match="holds a Codebook: only a FLAVA, a CLIP or"):
        run(codebook, tmp_path, [task])
    assert not (tmp_path / "out").exists()


def test_a_cut_off_last_line_does_no_harm(tmp_path):
    path = tmp_path / FILE
    add_results(path, [result("MNIST", 0.5), result("CIFAR10", 0.25)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert [each.row for each in read_results(path)] == ["MNIST"]
    add_results(path, [result("CIFAR10", 0.25)])
    assert path.read_bytes() == whole
    # Where only the line break is missing, nothing is lost.
    path.write_bytes(whole[:-1])
    assert [each.row for each in read_results(path)] == ["MNIST", "CIFAR10"]


def test_results_come_back_as_they_were(tmp_path):
    kept = [
        result("MNIST", 0.1 + 0.2, baselines={"majority": float("inf")}),
        result(None, -1.0, model="Grüße <b>\n"),
    ]
    add_results(tmp_path / "new" / FILE, kept)
    assert read_results(tmp_path / "new" / FILE) == kept


def test_every_damaged_line_is_told_and_the_file_is_left_alone(tmp_path):
    path = tmp_path / FILE
    add_results(path, [result("MNIST", 0.5)] * 4)
    rows = path.read_text().splitlines()
    rows[1] = rows[1].replace('"n":200', '"n":"many"')
    rows[2] = "nonsense"
    path.write_text("\n".join(rows) + "\n")
    damaged = path.read_bytes()
    for act in (lambda: read_results(path), lambda: add_results(path, [result("SST", 0.5)])):
        with pytest.raises(ValueError) as caught:
            act()
        said = str(caught.value)
        assert said.startswith(f"{path} holds lines that are no results")
        assert "line 2:\n  n: " in said
        assert "line 3:" in said
        assert "line 1:" not in said
        assert "line 4:" not in said
    assert path.read_bytes() == damaged


def test_a_missing_file_says_how_it_is_made(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"results\.jsonl is missing: `flava evaluate MODEL"
    ):
        read_results(tmp_path / FILE)

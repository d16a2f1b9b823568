"""What a newcomer does, in the smallest size: every command a process, on the embedded corpus."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flava.cli import main
from flava.data.paths import resolve
from flava.training.run import Run
from flava.training.trainer_config import load_config
from tests.tiny_runs import CODEBOOK_ARGUMENTS, FLAVA_ARGUMENTS, rows


def flava(*arguments: str, minutes: int = 5) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "flava", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def codebook(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("end-to-end") / "codebook"
    shard = "--data.images.shards=embedded:images/emojione-v1-train.tar"
    train = ["train", "codebook-tiny", "--max-steps=1", f"--output-dir={folder}", shard]
    assert str(folder) in flava(*train, *CODEBOOK_ARGUMENTS)
    return folder


@pytest.fixture(scope="module")
def run(codebook) -> Path:
    folder = codebook.parent / "flava"
    train = ["train", "flava-tiny", "--max-steps=3", "--seed=5", f"--output-dir={folder}"]
    said = flava(*train, f"--init.codebook={codebook}", *FLAVA_ARGUMENTS)
    assert f"Next: flava evaluate {folder}" in said
    assert "validation at step 3: zero_shot_accuracy" in said
    return folder


@pytest.fixture(scope="module")
def evaluation(run) -> dict[str, Any]:
    assert str(run / "evaluation.json") in flava("evaluate", str(run))
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def report(run, evaluation) -> str:  # noqa: ARG001
    assert f"report: {run / 'report.html'}" in flava("report", str(run))
    return (run / "report.html").read_text()


def test_training_leaves_everything_that_a_run_consists_of(run):
    found = load_config(run / "run.json", Run)
    assert (found.recipe, found.seed, found.max_steps) == ("flava-tiny", 5, 3)
    assert [row["step"] for row in rows(run) if "lr" in row] == [1, 2, 3]
    (probed,) = (row for row in rows(run) if "lr" not in row)
    assert probed["step"] == 3
    assert 0 <= probed["validation/zero_shot_accuracy"] <= 1
    for link in ("last", "best"):
        files = {path.name for path in (run / "checkpoints" / link).iterdir()}
        assert files == {"config.json", "model.safetensors", "progress.json", "state"}
    assert list((run / "tensorboard").iterdir())


def test_evaluation_holds_every_task_beside_its_baselines(evaluation):
    found = {(figure["task"], figure["split"]): figure for figure in evaluation["figures"]}
    tasks = {task for task, _ in found}
    assert tasks >= {"retrieval", "zero_shot", "linear_probe", "itm", "mlm", "mim"}
    assert tasks >= {"mmm_text", "mmm_image"}
    for figure in evaluation["figures"]:
        assert 0 <= figure["value"] <= 1
        assert figure["n"] > 0
        assert "untrained" in figure["baselines"]
        assert {"chance", "majority"} & set(figure["baselines"])
    assert "pca" in found["linear_probe", "unseen_concepts_all"]["baselines"]


def test_the_report_is_one_page_that_needs_no_other(report):
    assert "<html" in report
    linked = re.findall(r'(?:src|href)="([^"]*)"', report)
    assert all(link.startswith(("data:", "#")) for link in linked)
    assert sum(link.startswith("data:image/") for link in linked) > 20


def test_a_codebooks_run_has_curves_but_no_figures(codebook, capsys):
    assert main(["evaluate", str(codebook)]) == 1
    assert "only a FLAVA, a CLIP or an encoder" in capsys.readouterr().err
    assert main(["report", str(codebook)]) == 0
    assert "<svg" in (codebook / "report.html").read_text()


@pytest.mark.parametrize(
    "shard", ["embedded:pairs/noto-train.tar", "embedded:text/wordnet-train.jsonl"]
)
def test_the_corpus_is_in_the_package(shard):
    assert all(path.is_file() for path in resolve(shard))

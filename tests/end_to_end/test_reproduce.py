"""`flava reproduce`'s trials, in processes of their own as they are."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from flava.evaluation.record import FILE
from flava.reproduction.reproduce import ReproduceConfig, _run_trials, report
from flava.reproduction.trials import Trial, trials
from tests.end_to_end.test_stopped import wait_for_row


def short(name: str, folder: Path) -> Trial:
    """A trial of two steps."""
    (trial,) = trials((name,), folder, seed=0, quick=True)
    run = replace(trial.run, max_steps=2, validate_every=2, checkpoint_every=2)
    return replace(trial, run=run)


def test_trials_are_trained_measured_and_then_skipped_and_a_failure_leaves_the_others(
    tmp_path: Path,
) -> None:
    config = ReproduceConfig(output_dir=tmp_path, jobs=2)
    fine, fails = short("mlm", tmp_path), short("flava-c-dino", tmp_path)
    (problem,) = _run_trials([], [fails, fine], config)
    assert problem.startswith(f"{fails.folder}: flava train failed (")
    assert str(tmp_path / "seed-0" / "image-dino") in problem
    assert fine.is_trained
    assert (fine.folder / FILE).is_file()
    page = report(config, [fine, fails])
    assert "<strong>" not in page.read_text().split("NLP average")[1].split("</tr>")[0]
    assert "mlm" in (tmp_path / "reproduction.csv").read_text()

    log = (fine.folder / "log.txt").read_text()
    assert log.count("$ flava train") == log.count("$ flava evaluate") == 1
    assert _run_trials([fine], [], config) == []
    assert (fine.folder / "log.txt").read_text() == log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_a_checkpoint_and_no_process(tmp_path: Path, number: int) -> None:
    command = ["reproduce", "--output-dir", str(tmp_path), "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flava", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background jobs, and so their children, ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for_row(tmp_path / "seed-0" / "image-dino" / "metrics.jsonl", process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "run the same command again" in error
    assert "Traceback" not in error
    assert (tmp_path / "seed-0" / "image-dino" / "checkpoints" / "last").exists()
    assert not (tmp_path / "seed-0" / "image-beit").exists()
    assert children
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != "zombie" for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""Ctrl-C and SIGTERM, sent to the command in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flava.cli import main
from flava.core.processes import end_with_parent
from flava.training.checkpoint import load_progress
from tests.data.shard_files import encoded, picture, write_tar
from tests.tiny_runs import CODEBOOK_ARGUMENTS, rows


@pytest.mark.parametrize(
    ("number", "kill", "workers"),
    [
        (signal.SIGINT, os.killpg, 1),
        (signal.SIGTERM, os.killpg, 1),
        (signal.SIGTERM, os.kill, 0),
    ],
)
def test_a_stopped_run_says_how_to_go_on_and_does(tmp_path, number, kill, workers):
    folder = tmp_path / "run"
    images = {f"i{n}.png": encoded(picture(n)) for n in range(7)}
    shard = write_tar(tmp_path / "images.tar", images)
    command = ["train", "codebook-tiny", f"--output-dir={folder}", f"--data.images.shards={shard}"]
    command += [*CODEBOOK_ARGUMENTS, f"--data.workers={workers}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flava", *command, "--max-steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,  # a killed pytest must not leave it to run without end
    )
    try:
        wait_for_row(folder / "metrics.jsonl", process)
        kill(process.pid, number)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == (130 if number == signal.SIGINT else 0)
    assert "run the same command with --resume" in error
    assert "Traceback" not in error
    done = load_progress(folder / "checkpoints" / "last").step
    assert f"stopped after {done} of 1000000 steps" in error
    assert [row["step"] for row in rows(folder)] == list(range(1, done + 1))
    assert main([*command, f"--max-steps={done + 2}", "--resume"]) == 0
    assert [row["step"] for row in rows(folder)] == list(range(1, done + 3))


def wait_for_row(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)

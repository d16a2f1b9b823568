"""`flava train --processes 2`, in processes of its own, is stopped and goes on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flava.core.processes import end_with_parent
from flava.training.checkpoint import load_progress
from tests.data.shard_files import encoded, picture, write_tar
from tests.end_to_end.test_stopped import wait_for_row
from tests.tiny_runs import CODEBOOK_ARGUMENTS, rows

pytestmark = pytest.mark.slow


def command(folder: Path, *more: str) -> list[str]:
    images = {f"i{n}.png": encoded(picture(n)) for n in range(7)}
    shard = write_tar(folder / "images.tar", images)
    fields = [f"--output-dir={folder / 'run'}", f"--data.images.shards={shard}"]
    fields += [*CODEBOOK_ARGUMENTS, "--data.workers=0", "--checkpoint-every=5", "--processes=2"]
    return [sys.executable, "-m", "flava", "train", "codebook-tiny", *fields, *more]


@contextmanager
def training(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run without end that has begun to train."""
    process = subprocess.Popen(
        command(folder, "--max-steps=1000000", *more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,  # a killed pytest must not leave it to run without end
    )
    try:
        wait_for_row(folder / "run" / "metrics.jsonl", process)
        yield process
    finally:
        for each in psutil.Process(process.pid).children() if process.poll() is None else []:
            each.kill()
        process.kill()


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_sigterm_leaves_a_checkpoint_and_is_no_failure(tmp_path: Path, kill) -> None:
    with training(tmp_path) as process:
        kill(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert error.count("run the same command with --resume") == 1
    done = load_progress(tmp_path / "run" / "checkpoints" / "last").step
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, done + 1))
    again = command(tmp_path, f"--max-steps={done + 2}", "--resume")
    subprocess.run(again, check=True, timeout=120, capture_output=True)
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, done + 3))

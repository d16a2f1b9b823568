"""Builds in processes of their own, killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flava.prepare.build import UNFINISHED, build
from tests.prepare.made import contents, write_pairs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "files", ["block-*.json", "shard-*.json"], ids=["reading rows", "writing shards"]
)
def test_killed_in_mid_build_and_gone_on_with_it_equals_the_undisturbed(
    files: str, tmp_path: Path
) -> None:
    """By SIGKILL, with two processes; the undisturbed build has one, and so has the one that goes
    on: the bytes are the same."""
    config = replace(write_pairs(tmp_path, 400), rows_per_shard=2)
    build(replace(config, output=tmp_path / "undisturbed"), quiet=True)
    folder = config.output / UNFINISHED
    command = [sys.executable, "-m", "flava", "data", "build", "cc12m"]
    command += ["--annotations", *map(str, config.annotations), "--images", str(config.images)]
    command += ["--output", str(config.output), "--rows-per-shard", "2", "--processes", "2"]
    command += ["--cleaning.short-side", "24"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 120
    while len(list(folder.glob(files))) < 5:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (config.output / "manifest.json").exists()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert len(list(folder.glob(files))) < 200
    build(config, quiet=True)
    assert contents(config.output) == contents(tmp_path / "undisturbed")

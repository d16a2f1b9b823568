"""Worker processes of a process that is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.data.shard_files import write_lines

KILLED = """
import os, signal, sys
import psutil
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader

text = SourceConfig(shards=(sys.argv[1],), weight=1.0, batch_size=2)
with Loader(DataConfig(text=text, workers=2), seed=0) as batches:
    for _ in range(4):
        next(batches)
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_process(tmp_path: Path) -> None:
    shard = write_lines(tmp_path / "text.jsonl", [f"sentence number {n}" for n in range(10)])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(shard)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) >= 2
    alive = [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)]
    assert not psutil.wait_procs(alive, timeout=2)[1]  # torch's own look takes 5 seconds

"""A rank of `flava train --processes 2` is killed, hangs, raises, or loses its launcher."""

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.test_ranks import command, training

pytestmark = pytest.mark.slow

TIMEOUT = 5
"""Seconds that a rank waits for another."""
WORKERS = ("--data.workers=1", f"--timeout={TIMEOUT}")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Two ranks that train, each with a worker process."""
    with training(tmp_path, *WORKERS) as process:
        yield process


def ranks(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """In order; multiprocessing's helper is a child of the launcher too."""
    children = psutil.Process(launcher.pid).children()
    return [each for each in children if "spawn_main" in " ".join(each.cmdline())]


def below(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ranks and their workers."""
    every = [p for rank in ranks(launcher) for p in (rank, *rank.children())]
    assert len(every) >= 4
    return every


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


def test_a_killed_rank_stops_the_others_and_is_named(started: subprocess.Popen[str]) -> None:
    every = below(started)
    ranks(started)[1].kill()
    # The other one notices at once: it does not wait for the launcher to lose its patience (30 s).
    _, said = started.communicate(timeout=25)
    assert started.returncode == 1
    assert "rank 1 of 2 ended with SIGKILL, and the others were stopped" in said
    assert "add --resume" in said
    assert "Traceback" not in said
    assert_gone(every)


def test_a_rank_that_hangs_is_named_and_all_stop(started: subprocess.Popen[str]) -> None:
    every = below(started)
    ranks(started)[1].send_signal(signal.SIGSTOP)
    _, said = started.communicate(timeout=TIMEOUT + 60)
    assert started.returncode == 1
    expected = f"rank 1 ended, or gave no answer within the timeout of {TIMEOUT} s"
    assert said.count(expected) == 1
    assert "Traceback" not in said
    assert_gone(every)


def test_ranks_and_workers_end_with_a_killed_launcher(started: subprocess.Popen[str]) -> None:
    every = below(started)
    started.kill()
    assert_gone(every)


def test_a_rank_that_raises_says_so_once(tmp_path: Path) -> None:
    """A message alone where errors are expected, with its traceback where they are not."""
    raising = """
import sys
from flava.cli import main, training
from flava.training.trainer import Trainer
from flava.core.distributed import rank_from_environment

def train_step(self, batches):
    if rank_from_environment() == 1:
        raise ERROR("the second rank's own trouble")
    return plain(self, batches)

plain, Trainer.train_step = Trainer.train_step, train_step
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
    python, _, _, *arguments = command(tmp_path, "--max-steps=1000000", *WORKERS)
    for error, tracebacks in (("ValueError", 0), ("KeyError", 1)):
        script = tmp_path / f"{error}.py"
        script.write_text(raising.replace("ERROR", error))
        done = subprocess.run(
            [python, script, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 1
        said = done.stderr.count("the second rank's own trouble")
        assert said == 1 + tracebacks, done.stderr  # a traceback quotes the line that raised it
        assert "rank 1 of 2 ended with exit status 1" in done.stderr
        assert done.stderr.count("Traceback") == tracebacks, done.stderr

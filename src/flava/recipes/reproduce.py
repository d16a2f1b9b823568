"""Runs trials in processes of their own, several at once, and goes on where it was stopped."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from flava.evaluation.record import FILE
from flava.recipes.reproduction import Trial

LOOK = 2.0
"""Seconds between two looks at how far the trials are."""
SECONDS_BETWEEN_LINES = 60
"""Where there is no terminal to draw bars on, a line is printed this often."""
TAIL = 4096
"""Bytes at the end of metrics.jsonl that hold more than one row."""


def run_trials(trials: Sequence[Trial], jobs: int) -> list[str]:
    """Train and evaluate what is not yet trained and evaluated; a line for each that failed.

    Each process has an equal share of the cores.

    Raises:
        KeyboardInterrupt: by Ctrl-C, when every process has written its checkpoint.
    """
    with Crew(jobs) as crew, ThreadPoolExecutor(jobs) as pool, shown(trials):
        waiting = [pool.submit(crew.see_through, trial) for trial in trials]
        try:
            found = [future.result() for future in waiting]
        except KeyboardInterrupt:
            crew.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [line for line in found if line]


class Crew:
    """The processes at work."""

    def __init__(self, jobs: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def see_through(self, trial: Trial) -> str | None:
        """Train the trial and evaluate it; why that failed, if it did."""
        if not trial.is_trained:
            command = ["train", trial.recipe, *trial.changes(), "--resume"]
            if problem := self.run(command, trial):
                return problem
        if not is_evaluated(trial):
            return self.run(["evaluate", str(trial.folder)], trial)
        return None

    def run(self, arguments: list[str], trial: Trial) -> str | None:
        """Run a command of `flava`, its output going to the trial's log."""
        trial.folder.mkdir(parents=True, exist_ok=True)
        log = trial.folder / "log.txt"
        with log.open("ab") as file, self.lock:
            if self.stopped:
                return None
            file.write(f"$ flava {' '.join(arguments)}\n".encode())
            file.flush()
            command = [sys.executable, "-m", "flava", *arguments]
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A Ctrl-C at the terminal comes here alone, and then once to each of them.
                process_group=0,
            )
            self.running.add(process)
        status = process.wait()
        self.running.discard(process)
        if status == 0 or self.stopped:
            return None
        return f"{trial.folder}: flava {arguments[0]} failed ({last_line(log)}); all is in {log}"

    def stop(self) -> None:
        """Let every process write its checkpoint, and start no other."""
        with self.lock:
            self.stopped = True
        for process in list(self.running):
            process.terminate()
        for process in list(self.running):
            process.wait()


def is_evaluated(trial: Trial) -> bool:
    """Whether there are figures, of this checkpoint or a later one."""
    figures, checkpoint = trial.folder / FILE, trial.folder / "checkpoints" / "last"
    return figures.is_file() and figures.stat().st_mtime >= checkpoint.stat().st_mtime


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


@contextmanager
def shown(trials: Sequence[Trial]) -> Iterator[None]:
    """A progress bar of all updates, with rate, time left and what is at work; or lines."""
    console, done = Console(stderr=True), threading.Event()
    bar = Progress(
        TextColumn("reproducing"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TextColumn("updates,"),
        TimeRemainingColumn(),
        TextColumn("left; {task.fields[at_work]}"),
        console=console,
        disable=not console.is_terminal,
    )
    total = sum(trial.run.max_steps for trial in trials)
    task = bar.add_task("", total=total, completed=sum(map(updates_of, trials)), at_work="")

    def watch() -> None:
        printed = time.monotonic()
        while not done.wait(LOOK):
            steps = {trial: updates_of(trial) for trial in trials}
            at_work = ", ".join(
                f"{trial.folder.name} {n:,}"
                for trial, n in steps.items()
                if 0 < n < trial.run.max_steps
            )
            bar.update(task, completed=sum(steps.values()), at_work=at_work)
            if not console.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                console.print(f"{sum(steps.values()):,} of {total:,} updates; {at_work}")

    watcher = threading.Thread(target=watch, daemon=True)
    with bar:
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def updates_of(trial: Trial) -> int:
    """How many updates the trial has made so far."""
    if trial.is_trained:
        return trial.run.max_steps
    path = trial.folder / "metrics.jsonl"
    rows = path.read_bytes()[-TAIL:].splitlines() if path.is_file() else []
    # The last line may be half written.
    steps = [json.loads(row)["step"] for row in rows[1:] if row.endswith(b"}")]
    return min(max(steps, default=0), trial.run.max_steps - 1)

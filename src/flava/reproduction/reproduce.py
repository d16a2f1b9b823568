"""`flava reproduce`: the whole comparison of Table C.1, in trials that run several at once.

Each trial is a process of the command line's own: `flava train`, then `flava evaluate`. What is
done is skipped, what was begun goes on, and a trial that fails leaves the others alone.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from flava.core.machine import describe_machine
from flava.core.progress import duration
from flava.evaluation.record import FILE, Evaluation, load_evaluation
from flava.recipes.columns import RELEASED, TINY
from flava.reports.charts import read_course
from flava.reports.comparison_report import write_comparison
from flava.reproduction.trials import QUICK, STAGES, Trial, columns, home_of, trials
from flava.suite import paper
from flava.suite.comparison import MeasuredColumns
from flava.training.launch import Interrupted

LOOK = 2.0
"""Seconds between two looks at how far the trials are."""
SECONDS_BETWEEN_LINES = 60
"""Where there is no terminal to draw bars on, a line is printed this often."""
TAIL = 4096
"""Bytes at the end of metrics.jsonl that hold more than one row."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """The columns of Table C.1 with their stages, side by side."""

    scale: Literal["tiny"] = "tiny"
    """The recipes' size: tiny are the twins on the embedded corpus, for a small machine."""
    output_dir: Path | None = None
    """Folder to write to; runs/reproduce, or runs/reproduce-quick, if not set."""
    seeds: int = 1
    """How many seeds everything is trained with: 0, 1, ..."""
    quick: bool = False
    """Make a tenth of the updates: to see that all works, not what comes out."""
    jobs: int = 2
    """Trials that run at once; each has an equal share of the cores."""
    clip_400m: str | None = None
    """Released CLIP weights to measure as column 14: anything that flava.load takes."""

    @property
    def folder(self) -> Path:
        return self.output_dir or Path(f"runs/reproduce{'-quick' if self.quick else ''}")

    def problems(self) -> list[str]:
        """What is wrong with the settings, one line each."""
        return [
            f"{name} is {value}: use at least 1"
            for name in ("seeds", "jobs")
            if (value := getattr(self, name)) < 1
        ]


def reproduce(config: ReproduceConfig) -> Path:
    """Train and evaluate everything that is not yet, and return the path of the report.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM, when every process has written its checkpoint.
        ValueError: the settings do not hold; or trials failed, after the report of the others.
        OSError: the folder cannot be written.
    """
    if problems := config.problems():
        raise ValueError("flava reproduce cannot start:\n  " + "\n  ".join(problems))
    stages, later = (planned(config, names) for names in (STAGES, columns()))
    failed = run_trials(stages, later, config)
    page = report(config, [*stages, *later])
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(stages) + len(later)} trials failed; the same command goes on "
            f"with them. The others are in {page}:\n  " + "\n  ".join(failed)
        )
    return page


def planned(config: ReproduceConfig, names: tuple[str, ...]) -> list[Trial]:
    """The trials of these recipes with every seed."""
    return [
        trial
        for seed in range(config.seeds)
        for trial in trials(names, TINY.suffix, config.folder, seed, quick=config.quick)
    ]


def report(config: ReproduceConfig, done: Sequence[Trial]) -> Path:
    """Write the comparison of all columns that every seed has."""
    found = {name: evaluations(config, name) for name in (*paper.columns(), *STAGES)}
    kept: MeasuredColumns = {name: each for name, each in found.items() if each}
    courses = [course for trial in done if (course := read_course(trial.folder))]
    facts = [
        ("seeds", str(config.seeds)),
        ("columns and stages", f"{len(kept)} of {len(found)}"),
        ("updates", f"{sum(course.last_step for course in courses):,}"),
        ("training time, summed", duration(sum(course.seconds for course in courses))),
        ("machine", "{processor}, {cores} cores".format(**describe_machine())),
    ]
    notes = [f"--quick: every run made a {QUICK}th of its updates."] if config.quick else []
    missing = [name for name in found if name not in kept and name != RELEASED]
    if missing:
        notes.append(f"Not measured with every seed, and left out: {', '.join(missing)}.")
    return write_comparison(kept, facts, notes, config.folder)


def evaluations(config: ReproduceConfig, name: str) -> list[Evaluation]:
    """A column's, one a seed; none if a seed has none."""
    if name == RELEASED:
        folders = [config.folder / RELEASED] * config.seeds if config.clip_400m else []
    else:
        folders = [home_of(config.folder, seed) / name for seed in range(config.seeds)]
    if not all((folder / FILE).is_file() for folder in folders):
        return []
    return [load_evaluation(folder) for folder in folders]


def run_trials(
    stages: Sequence[Trial], later: Sequence[Trial], config: ReproduceConfig
) -> list[str]:
    """Stages first, since columns start from them; a line for each trial that failed."""
    with (
        terminating(),
        closing(Crew(config.jobs)) as crew,
        ThreadPoolExecutor(config.jobs) as pool,
        shown([*stages, *later]),
    ):
        try:
            found = [*pool.map(crew.see_through, stages)]
            released = pool.submit(crew.measure_released, config)
            found += [*pool.map(crew.see_through, later), released.result()]
        except KeyboardInterrupt as stop:
            crew.close()
            raise Interrupted("stopped. To go on, run the same command again") from stop
    return [line for line in found if line]


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, stop as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Crew:
    """The processes at work."""

    def __init__(self, jobs: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.lock = threading.Lock()

    def see_through(self, trial: Trial) -> str | None:
        """Train the trial and evaluate it; why that failed, if it did."""
        if not trial.is_trained:
            command = ["train", trial.recipe, *trial.changes(), "--resume"]
            if problem := self.run(command, trial.folder):
                return problem
            if not trial.is_trained:
                return None if self.stopped else f"{trial.folder}: flava train was stopped"
        if not is_evaluated(trial):
            return self.run(["evaluate", str(trial.folder)], trial.folder)
        return None

    def measure_released(self, config: ReproduceConfig) -> str | None:
        """Evaluate what is given as column 14."""
        folder = config.folder / RELEASED
        if config.clip_400m is None or (folder / FILE).is_file():
            return None
        return self.run(["evaluate", config.clip_400m, "--output-dir", str(folder)], folder)

    def run(self, arguments: list[str], folder: Path) -> str | None:
        """Run a command of `flava`, its output going to the folder's log; why it failed."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
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
        return f"{folder}: flava {arguments[0]} failed ({last_line(log)}); all is in {log}"

    def close(self) -> None:
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
            steps = [updates_of(trial) for trial in trials]
            at_work = ", ".join(
                f"{trial.folder.name} {n:,}"
                for trial, n in zip(trials, steps, strict=True)
                if 0 < n < trial.run.max_steps
            )
            bar.update(task, completed=sum(steps), at_work=at_work)
            if not console.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                console.print(f"{sum(steps):,} of {total:,} updates; {at_work}")

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

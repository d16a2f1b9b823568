"""`flava reproduce`: trains and evaluates all columns of Table C.1, several at once.

Each trial is a `flava train` followed by a `flava evaluate`, both in processes of their own. Trials
that are done are skipped, interrupted ones are resumed, and a failure does not stop the others.
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
from flava.recipes.columns import RELEASED
from flava.reports.comparison_report import write_comparison
from flava.reports.training_curves import read_training_metrics
from flava.reproduction.trials import (
    QUICK,
    STAGES,
    Trial,
    seed_folder,
    trained_columns,
    trials,
)
from flava.suite import paper
from flava.suite.comparison import MeasuredColumns
from flava.training.launch import Interrupted

SECONDS_BETWEEN_POLLS = 2.0
"""How often the progress of the trials is read from their folders."""
SECONDS_BETWEEN_LINES = 60
"""How often a line with the progress is printed where there is no terminal for a bar."""
BYTES_OF_LAST_ROWS = 4096
"""At the end of metrics.jsonl so many bytes hold more than one row."""


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """What is trained and evaluated: the columns of Table C.1, and the stages they start from."""

    scale: Literal["tiny"] = "tiny"
    """Size of the recipes. The tiny ones train on the embedded corpus, on a small machine."""
    output_dir: Path | None = None
    """Folder to write to. By default runs/reproduce, or runs/reproduce-quick with --quick."""
    seeds: int = 1
    """How many seeds every column and stage is trained with: 0, 1, ..."""
    quick: bool = False
    """Make only a tenth of the steps. This shows that everything works; the figures are poor."""
    jobs: int = 2
    """How many trainings or evaluations run at once. Each gets an equal share of the cores."""
    clip_400m: str | None = None
    """Released CLIP weights to evaluate as column 14: anything that flava.load takes."""

    @property
    def folder(self) -> Path:
        return self.output_dir or Path(f"runs/reproduce{'-quick' if self.quick else ''}")

    def problems(self) -> list[str]:
        """What is wrong with the fields, one line each."""
        return [
            f"{name} is {value}: use at least 1"
            for name in ("seeds", "jobs")
            if (value := getattr(self, name)) < 1
        ]


def reproduce(config: ReproduceConfig) -> Path:
    """Train and evaluate what is not done yet, and return the path of the report.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM, after every process has written its checkpoint.
        ValueError: a field of ``config`` is out of range; or trials failed, after the report of the
            others was written.
        OSError: the folder cannot be written.
    """
    if problems := config.problems():
        raise ValueError("flava reproduce cannot start:\n  " + "\n  ".join(problems))
    stages, columns = (_trials_of_all_seeds(config, names) for names in (STAGES, trained_columns()))
    failures = _run_trials(stages, columns, config)
    page = report(config, [*stages, *columns])
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(stages) + len(columns)} trials failed; the same command goes "
            f"on with them. The others are in {page}:\n  " + "\n  ".join(failures)
        )
    return page


def _trials_of_all_seeds(config: ReproduceConfig, names: tuple[str, ...]) -> list[Trial]:
    return [
        trial
        for seed in range(config.seeds)
        for trial in trials(names, config.folder, seed, quick=config.quick)
    ]


def report(config: ReproduceConfig, done: Sequence[Trial]) -> Path:
    """Write the comparison of all columns and stages that were evaluated with every seed.

    Args:
        config: The folder, the seeds and --quick.
        done: The trials whose steps and training time the page sums up.
    """
    evaluations = {name: _evaluations(config, name) for name in (*paper.columns(), *STAGES)}
    measured: MeasuredColumns = {name: each for name, each in evaluations.items() if each}
    metrics = [found for trial in done if (found := read_training_metrics(trial.folder))]
    facts = [
        ("seeds", str(config.seeds)),
        ("columns and stages", f"{len(measured)} of {len(evaluations)}"),
        ("steps", f"{sum(each.last_step for each in metrics):,}"),
        ("training time, summed", duration(sum(each.seconds for each in metrics))),
        ("machine", "{processor}, {cores} cores".format(**describe_machine())),
    ]
    notes = [f"--quick: every run made a {QUICK}th of its steps."] if config.quick else []
    missing = [name for name in evaluations if name not in measured and name != RELEASED]
    if missing:
        notes.append(f"Left out, because not every seed was evaluated: {', '.join(missing)}.")
    return write_comparison(measured, facts, notes, config.folder)


def _evaluations(config: ReproduceConfig, name: str) -> list[Evaluation]:
    """A column's or stage's evaluations, one for each seed; empty if one is missing."""
    if name == RELEASED:
        folders = [config.folder / RELEASED] * config.seeds if config.clip_400m else []
    else:
        folders = [seed_folder(config.folder, seed) / name for seed in range(config.seeds)]
    if not all((folder / FILE).is_file() for folder in folders):
        return []
    return [load_evaluation(folder) for folder in folders]


def _run_trials(
    stages: Sequence[Trial], columns: Sequence[Trial], config: ReproduceConfig
) -> list[str]:
    """Run the stages, then the columns, which start from them.

    Returns:
        A line for each trial that failed.
    """
    with (
        _termination_as_interrupt(),
        closing(TrialRunner(config.jobs)) as runner,
        ThreadPoolExecutor(config.jobs) as pool,
        _progress_of([*stages, *columns]),
    ):
        try:
            failures = [*pool.map(runner.train_and_evaluate, stages)]
            released = pool.submit(runner.evaluate_released, config)
            failures += [*pool.map(runner.train_and_evaluate, columns), released.result()]
        except KeyboardInterrupt as stop:
            runner.close()
            raise Interrupted("stopped. To continue, run the same command again") from stop
    return [line for line in failures if line]


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal was closed) raise KeyboardInterrupt, as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class TrialRunner:
    """Runs commands of `flava` in processes, and stops them all when it is closed.

    Its methods are called from several threads at once.
    """

    def __init__(self, jobs: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def train_and_evaluate(self, trial: Trial) -> str | None:
        """Train the trial and evaluate it, as far as that is not done.

        Returns:
            Why it failed; None if it did not.
        """
        if not trial.is_trained:
            command = ["train", trial.recipe, *trial.overrides(), "--resume"]
            if failure := self._run(command, trial.folder):
                return failure
            if not trial.is_trained:
                return None if self._closed else f"{trial.folder}: flava train was stopped"
        if not _is_evaluated(trial):
            return self._run(["evaluate", str(trial.folder)], trial.folder)
        return None

    def evaluate_released(self, config: ReproduceConfig) -> str | None:
        """Evaluate the weights given as column 14, if any; return why that failed."""
        folder = config.folder / RELEASED
        if config.clip_400m is None or (folder / FILE).is_file():
            return None
        return self._run(["evaluate", config.clip_400m, "--output-dir", str(folder)], folder)

    def _run(self, arguments: list[str], folder: Path) -> str | None:
        """Run a command of `flava` with its output appended to log.txt; return why it failed."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        with log.open("ab") as file, self._lock:
            if self._closed:
                return None
            file.write(f"$ flava {' '.join(arguments)}\n".encode())
            file.flush()
            command = [sys.executable, "-m", "flava", *arguments]
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A Ctrl-C at the terminal reaches this process alone, which then stops the others.
                process_group=0,
            )
            self._processes.add(process)
        status = process.wait()
        self._processes.discard(process)
        if status == 0 or self._closed:
            return None
        return f"{folder}: flava {arguments[0]} failed ({_last_line(log)}); its output is in {log}"

    def close(self) -> None:
        """Start no other process, and wait until every running one has written its checkpoint."""
        with self._lock:
            self._closed = True
        for process in list(self._processes):
            process.terminate()
        for process in list(self._processes):
            process.wait()


def _is_evaluated(trial: Trial) -> bool:
    """Whether there is an evaluation that is not older than the last checkpoint."""
    evaluation, checkpoint = trial.folder / FILE, trial.folder / "checkpoints" / "last"
    return evaluation.is_file() and evaluation.stat().st_mtime >= checkpoint.stat().st_mtime


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a message"


@contextmanager
def _progress_of(trials: Sequence[Trial]) -> Iterator[None]:
    """Show the steps of all trials, the time left and what is running: as a bar, or as lines."""
    console, done = Console(stderr=True), threading.Event()
    bar = Progress(
        TextColumn("reproducing"),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left; {task.fields[running]}"),
        console=console,
        disable=not console.is_terminal,
    )
    total = sum(trial.run.max_steps for trial in trials)
    task = bar.add_task("", total=total, completed=sum(map(_steps_done, trials)), running="")

    def watch() -> None:
        printed = time.monotonic()
        while not done.wait(SECONDS_BETWEEN_POLLS):
            steps = [_steps_done(trial) for trial in trials]
            running = ", ".join(
                f"{trial.folder.name} {n:,}"
                for trial, n in zip(trials, steps, strict=True)
                if 0 < n < trial.run.max_steps
            )
            bar.update(task, completed=sum(steps), running=running)
            if not console.is_terminal and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                console.print(f"{sum(steps):,} of {total:,} steps; {running}")

    watcher = threading.Thread(target=watch, daemon=True)
    with bar:
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _steps_done(trial: Trial) -> int:
    """How many steps the trial has made so far."""
    if trial.is_trained:
        return trial.run.max_steps
    path = trial.folder / "metrics.jsonl"
    rows = path.read_bytes()[-BYTES_OF_LAST_ROWS:].splitlines() if path.is_file() else []
    # The first row may be cut off, and the last one half written.
    steps = [json.loads(row)["step"] for row in rows[1:] if row.endswith(b"}")]
    return min(max(steps, default=0), trial.run.max_steps - 1)

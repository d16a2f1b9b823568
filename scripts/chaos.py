"""Kills random ranks of a small run again and again, and compares it with an undisturbed run.

    python scripts/chaos.py --kills 50 --folder /tmp/chaos

Both runs are `flava train` with two ranks. After each SIGKILL, torchrun's launcher starts the ranks
of the second run again from their last checkpoint. At the end all weights and optimizer states must
be equal bit for bit. Meanwhile every checkpoint that appears is loaded once.

A kill waits until the restarted ranks have done a step and then a random number of further steps;
every other kill also waits until a checkpoint is being written. The script counts where kills hit.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.cli import main as flava
from flava.core.distributed import rank
from flava.data import streaming
from flava.training import launch
from flava.training.checkpoint import load_progress
from flava.training.state import _stored_tensors
from flava.training.trainer import Trainer

SEED = 0
RANKS = 2
STEPS_PER_KILL = 12
"""Steps of the run for each kill, so that the run does not end before the last one."""
CHECKPOINT_EVERY = 3
LONGEST_LIFE = 8
"""Largest number of steps between the first step after a start and the next kill."""
SLOWEST = 500.0
"""Seconds within which ranks must begin to train, or write a checkpoint."""
TINY = {"width": 16, "depth": 2, "heads": 2, "mlp-width": 16}
SHARDS = "embedded:pairs/*-val.tar"
LAST_UPDATE = "last-update"
"""A file in the run's folder: the process id of rank 0, and the last step that it has done."""


def command(folder: Path, steps: int, kills: int) -> list[str]:
    """The command of a run whose model is small enough for many steps a second.

    Drop path draws from torch's generators, and each source is read in several streams, so that a
    wrong restored state would show.
    """
    fields = {
        "output-dir": folder,
        "max-steps": steps,
        "checkpoint-every": CHECKPOINT_EVERY,
        "keep-last": 2,
        "validate-every": steps,
        "precision": "fp32",
        "parallel": "fsdp",
        "data.workers": 1,
        "data.streams": 4,
        "processes": RANKS,
        "max-restarts": 2 * kills,
    }
    for name in ("pairs", "images", "text"):
        fields |= {f"data.{name}.batch-size": 4, f"data.{name}.shards": SHARDS}
    for part in ("image", "text", "multimodal"):
        fields |= {f"model.{part}.{name}": value for name, value in TINY.items()}
        fields |= {f"model.{part}.drop-path": 0.1}
    options = [f"--{name}={value}" for name, value in fields.items()]
    return [sys.executable, str(Path(__file__)), "train", "flava-tiny", *options]


def train(arguments: Sequence[str]) -> int:
    """`flava train` with forked ranks, which saves their imports, that report their steps."""
    train_step = Trainer.train_step

    def reporting_step(self: Trainer, batches: object) -> object:
        row = train_step(self, batches)  # pyright: ignore[reportArgumentType]
        if rank() == 0:
            path = self.run.output_dir / LAST_UPDATE
            path.with_suffix(".new").write_text(f"{os.getpid()} {self.step}")
            path.with_suffix(".new").replace(path)
        return row

    Trainer.train_step = reporting_step  # pyright: ignore[reportAttributeAccessIssue]
    launch.LaunchConfig = partial(launch.LaunchConfig, start_method="fork")  # pyright: ignore
    streaming.IN_MEMORY_BYTES = 0  # read shards as streams although they are small
    return flava(arguments)


def chaos(folder: Path, kills: int) -> bool:
    """Do both runs; return whether they are equal and all checkpoints were complete."""
    steps = STEPS_PER_KILL * kills
    calm, stormy = folder / "calm", folder / "stormy"
    with (folder / "calm.log").open("wb") as log:
        subprocess.run(command(calm, steps, 0), stdout=log, stderr=log, check=True)
    loaded = Loaded(stormy / "checkpoints")
    with (folder / "stormy.log").open("wb") as log:
        run = subprocess.Popen(command(stormy, steps, kills), stdout=log, stderr=log)
        try:
            fell = Storm(run, stormy, loaded).kill_often(kills)
            while run.poll() is None:
                look_for(0.2, loaded)
        finally:
            run.terminate()
            run.wait()
    same = run.returncode == 0 and equal(calm, stormy)
    print(
        f"{fell.total()} kills ({', '.join(f'{n} {where}' for where, n in fell.items())}), exit "
        f"status {run.returncode}; {loaded.count} checkpoints seen, {len(loaded.broken)} of them "
        f"broken; as the undisturbed run: {same}"
    )
    return same and fell.total() == kills and not loaded.broken


class Storm:
    """Kills random ranks of a run, again each time that it has restarted."""

    def __init__(self, run: subprocess.Popen[bytes], folder: Path, loaded: "Loaded") -> None:
        self.run, self.folder, self.loaded = run, folder, loaded
        self.chance = random.Random(SEED)

    def kill_often(self, kills: int) -> Counter[str]:
        """Kill ranks so many times; return how many kills hit at which moment."""
        fell: Counter[str] = Counter()
        for number in range(kills):
            every = self.due(in_writing=number % 2 == 1)
            if not every:
                break
            step, writing = self.updates_of(every), self.writing()
            self.chance.choice(every).kill()
            psutil.wait_procs(every, timeout=SLOWEST)
            # A checkpoint that is still partial when all ranks are dead was hit.
            hit = bool(writing & self.writing())
            where = "between checkpoints" if step else "before the first update"
            fell[where := "while a checkpoint was written" if hit else where] += 1
            print(f"kill {number + 1} of {kills} after update {step}, {where}", flush=True)
        return fell

    def due(self, *, in_writing: bool) -> list[psutil.Process]:
        """Wait until a rank should be killed; return all ranks, or none if the run has ended."""
        self.wait_for(lambda: self.updates_of(self.ranks()))
        last = self.updates_of(self.ranks()) + self.chance.randint(0, LONGEST_LIFE)
        self.wait_for(lambda: self.updates_of(self.ranks()) >= last)
        if in_writing:
            self.wait_for(self.writing)
        time.sleep(self.chance.uniform(0, 0.02 if in_writing else 0.2))
        return self.ranks()

    def wait_for(self, happens: Callable[[], object]) -> None:
        """Wait until a condition is true, or the run has ended."""
        deadline = time.monotonic() + SLOWEST
        while self.run.poll() is None and not happens():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing has happened for {SLOWEST:.0f} s: see stormy.log")
            self.loaded.look()
            time.sleep(0.002)

    def ranks(self) -> list[psutil.Process]:
        """The processes of all ranks; none while they are being restarted."""
        with suppress(psutil.Error):
            found = psutil.Process(self.run.pid).children()
            return found if len(found) == RANKS else []
        return []

    def updates_of(self, ranks: Sequence[psutil.Process]) -> int:
        """The last step that these ranks have done; 0 before their first."""
        with suppress(OSError):
            pid, step = map(int, (self.folder / LAST_UPDATE).read_text().split())
            return step if pid in [each.pid for each in ranks] else 0
        return 0

    def writing(self) -> set[str]:
        """The checkpoints that are being written."""
        return {path.name for path in (self.folder / "checkpoints").glob(".step-*.partial")}


class Loaded:
    """Loads every checkpoint of a folder once, as soon as it appears."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.broken = folder, 0, []
        self.known: set[tuple[str, int]] = set()

    def look(self) -> None:
        for path in self.folder.glob("step-*"):
            try:
                each = (path.name, path.stat().st_ino)
                if each not in self.known:
                    load(path)
                    self.known.add(each)
                    self.count += 1
            except (OSError, ValueError) as error:
                # A checkpoint may be deleted while it is read; then it is no error.
                if path.exists():
                    self.broken.append(f"{path}: {error}")
                    print(self.broken[-1], flush=True)


def load(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by name; an incomplete checkpoint raises errors."""
    progress = load_progress(checkpoint)
    assert progress.step == int(checkpoint.name.removeprefix("step-"))
    return _stored_tensors(checkpoint) | load_pretrained(checkpoint).state_dict()


def equal(first: Path, second: Path) -> bool:
    """Whether two finished runs hold the same weights and the same state, bit for bit."""
    ours, theirs = (load((run / "checkpoints" / "last").resolve()) for run in (first, second))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def look_for(seconds: float, loaded: Loaded) -> None:
    deadline = time.monotonic() + seconds
    loaded.look()
    while time.monotonic() < deadline:
        time.sleep(0.02)
        loaded.look()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"))
    asked = parser.parse_args()
    if asked.folder.exists():
        print(f"{asked.folder} is already there: choose another --folder", file=sys.stderr)
        return 1
    asked.folder.mkdir(parents=True)
    return 0 if chaos(asked.folder, asked.kills) else 1


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]) if sys.argv[1:2] == ["train"] else main())

"""Kill random ranks of a small run again and again, and compare it with one that nobody disturbs.

    python scripts/chaos.py --kills 50 --folder /tmp/chaos

Both runs are `flava train` with two ranks, and torchrun's launcher starts the ranks of the second
again from their last checkpoint after each SIGKILL. At the end all weights and the optimiser must
be equal bit for bit. Meanwhile every checkpoint that can be seen is loaded, once.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from flava.model.published.load import load_pretrained
from flava.training.checkpoint import load_progress
from flava.training.state import stored_tensors

SEED = 0
RANKS = 2
STEPS_PER_KILL = 12
"""Updates of the run for each kill, so that it outlives all of them."""
CHECKPOINT_EVERY = 3
TINY = {"width": 16, "depth": 1, "heads": 2, "mlp-width": 16}
LONGEST_LIFE = 3.0
"""Seconds of training until the next kill, at most."""
SLOWEST = 200.0
"""Seconds in which ranks must have begun to train."""


def command(folder: Path, steps: int, kills: int) -> list[str]:
    """A run of a model that is small enough to update many times a second."""
    fields = {
        "output-dir": folder,
        "max-steps": steps,
        "checkpoint-every": CHECKPOINT_EVERY,
        "keep-last": 2,
        "probe-every": steps,
        "precision": "fp32",
        "parallel": "fsdp",
        "data.workers": 1,
        "processes": RANKS,
        "max-restarts": 2 * kills,
    }
    fields |= {f"data.{name}.batch-size": 4 for name in ("pairs", "images", "text")}
    for part in ("image", "text", "multimodal"):
        fields |= {f"model.{part}.{name}": value for name, value in TINY.items()}
    options = [f"--{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "flava", "train", "flava-tiny", *options]


def chaos(folder: Path, kills: int) -> bool:
    """Make both runs; whether they are equal and all checkpoints were whole."""
    steps = STEPS_PER_KILL * kills
    calm, stormy = folder / "calm", folder / "stormy"
    with (folder / "calm.log").open("wb") as log:
        subprocess.run(command(calm, steps, 0), stdout=log, stderr=log, check=True)
    loaded = Loaded(stormy / "checkpoints")
    with (folder / "stormy.log").open("wb") as log:
        run = subprocess.Popen(command(stormy, steps, kills), stdout=log, stderr=log)
        try:
            done = kill_often(run, stormy, kills, loaded)
            while run.poll() is None:
                look_for(0.2, loaded)
        finally:
            run.terminate()
            run.wait()
    same = run.returncode == 0 and equal(calm, stormy)
    print(
        f"{done} kills, exit status {run.returncode}; {loaded.count} checkpoints seen, "
        f"{len(loaded.broken)} of them broken; as the undisturbed run: {same}"
    )
    return same and done == kills and not loaded.broken


def kill_often(run: subprocess.Popen[bytes], folder: Path, kills: int, loaded: "Loaded") -> int:
    """Kill a rank at random, each time that the run trains again; how often it was done."""
    chance, done = random.Random(SEED), 0
    while done < kills and training_goes_on(run, folder, loaded):
        look_for(chance.uniform(0, LONGEST_LIFE), loaded)
        if victims := ranks_of(run.pid):
            chance.choice(victims).kill()
            done += 1
            print(f"kill {done} of {kills} after update {updates(folder)}", flush=True)
    return done


class Loaded:
    """Every checkpoint that could be seen, loaded once as soon as it was."""

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
                # It may have been dropped while it was read, and then it is no longer there.
                if path.exists():
                    self.broken.append(f"{path}: {error}")
                    print(self.broken[-1], flush=True)


def load(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, by name; errors of whatever is not whole."""
    progress = load_progress(checkpoint)
    assert progress.step == int(checkpoint.name.removeprefix("step-"))
    return stored_tensors(checkpoint) | load_pretrained(checkpoint).state_dict()


def equal(first: Path, second: Path) -> bool:
    """Whether two finished runs hold the same weights and the same state, bit for bit."""
    ours, theirs = (load((run / "checkpoints" / "last").resolve()) for run in (first, second))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def updates(run_folder: Path) -> int:
    """The last update that the run has told of."""
    path = run_folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def training_goes_on(run: subprocess.Popen[bytes], folder: Path, loaded: Loaded) -> bool:
    """Wait until the ranks have made an update since now; False if the run has ended."""
    before, deadline = modified(folder), time.monotonic() + SLOWEST
    while run.poll() is None:
        if modified(folder) > before and len(ranks_of(run.pid)) == RANKS:
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"no update in {SLOWEST:.0f} s: see stormy.log")
        look_for(0.05, loaded)
    return False


def modified(folder: Path) -> float:
    path = folder / "metrics.jsonl"
    return path.stat().st_mtime if path.is_file() else 0.0


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The launcher's processes that train: multiprocessing's helpers are not among them."""
    found = []
    with suppress(psutil.Error):
        for each in psutil.Process(launcher).children():
            with suppress(psutil.Error):  # one that has just ended
                if "spawn_main" in " ".join(each.cmdline()):
                    found.append(each)
    return found


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
    sys.exit(main())

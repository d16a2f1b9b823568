"""What takes a process of its own: starting, loading a model, and the memory of a step."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contenders import base_model
from benchmarks.measure import OURS, Measured, Result, seconds_of
from flava.inference.export import save_pretrained

PEER = "transformers"
PEAK = """
import json, resource
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
"""
"""The largest memory that the process has had, in GiB (Linux counts in KiB)."""
STEPS = """
from benchmarks import contenders, steps
model = contenders.base_model()
contender = {contender}
batch = steps.batches(model)[steps.CODED]
del model
update = contenders.training(contender)
for _ in range(3):
    update(batch)
"""
MEMORY = {
    OURS: STEPS.format(contender="contenders.ours(model)"),
    PEER: STEPS.format(contender="contenders.hugging_face(model)"),
}
IMPORT = {OURS: "import flava", PEER: "import transformers"}
LOAD = {
    OURS: "import flava; flava.load({folder!r})",
    PEER: "from transformers import FlavaForPreTraining as F, FlavaProcessor as P; "
    "F.from_pretrained({folder!r}); P.from_pretrained({folder!r})",
}
HELP = "from flava.cli import main; main(['--help'])"


def run(rounds: int) -> Iterator[Result]:
    yield started("import", IMPORT, rounds)
    yield started("flava --help", {OURS: HELP}, rounds)
    with tempfile.TemporaryDirectory() as folder:
        saved = save_pretrained(base_model(), Path(folder) / "model", source=None)
        programs = {name: program.format(folder=str(saved)) for name, program in LOAD.items()}
        yield started("load a base model", programs, rounds)
        yield peak_memory("memory to load it", programs, {})
    yield peak_memory("memory of a pair step, codes kept", MEMORY, {PEER: 1 / 0.65})


def started(name: str, programs: dict[str, str], rounds: int) -> Result:
    """Seconds of whole processes, in turns."""
    seconds: dict[str, list[float]] = {contender: [] for contender in programs}
    for _ in range(rounds):
        for contender, program in programs.items():
            seconds[contender].append(seconds_of(lambda p=program: python(p)))
    return Result(
        name=name, contenders={c: Measured(values=v) for c, v in seconds.items()}, goals={}
    )


def peak_memory(name: str, programs: dict[str, str], goals: dict[str, float]) -> Result:
    found = {
        contender: Measured(values=[json.loads(python(program + PEAK).splitlines()[-1])])
        for contender, program in programs.items()
    }
    return Result(name=name, contenders=found, goals=goals, unit="GiB")


def python(program: str) -> str:
    """What it prints.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on the screen.
    """
    command = [sys.executable, "-c", program]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

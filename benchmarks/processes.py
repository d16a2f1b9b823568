"""Measures what needs a new process: import, loading a model, and the peak memory of a step."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.contenders import base_model
from benchmarks.measure import OURS, Measured, Result
from benchmarks.turns import Here
from flava.inference.export import save_pretrained

PEER = "transformers"
PEAK = """
status = dict(line.split(":") for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) / 2**20)
"""
"""Prints the peak memory of the process in GiB, on Linux. ru_maxrss would include the memory of the
process that started this one."""
STEPS = """
from benchmarks import steps
step = steps.{contender}[steps.{kind}]
for _ in range(3):
    step()
"""
PEER_STEPS = STEPS.format(contender=f"peer_steps({PEER!r})", kind="PAIRS")
MEMORY = {
    "": STEPS.format(contender="our_steps()", kind="CODED"),
    ", --checkpoint-blocks": STEPS.format(contender="our_steps(checkpointed=True)", kind="CODED"),
}
"""Option of `flava train` -> a program that trains with it."""
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
        loaded = {name: peak_of(program) for name, program in programs.items()}
        yield Result(name="memory to load it", contenders=loaded, goals={}, unit="GiB")
    peers = peak_of(PEER_STEPS)
    for option, program in MEMORY.items():
        yield Result(
            name=f"memory of a pair step, codes kept{option}",
            contenders={OURS: peak_of(program), PEER: peers},
            goals={PEER: 1 / 0.65},
            unit="GiB",
        )


def started(name: str, programs: dict[str, str], rounds: int) -> Result:
    """Seconds that whole processes take, in turns."""
    seconds: dict[str, list[float]] = {contender: [] for contender in programs}
    for _ in range(rounds):
        for contender, program in programs.items():
            seconds[contender].append(Here(partial(python, program)).seconds())
    return Result(
        name=name, contenders={c: Measured(values=v) for c, v in seconds.items()}, goals={}
    )


def peak_of(program: str) -> Measured:
    return Measured(values=[json.loads(python(program + PEAK).splitlines()[-1])])


def python(program: str) -> str:
    """Run a program in a new process, and return its output.

    Raises:
        subprocess.CalledProcessError: it failed; its error is on the screen.
    """
    command = [sys.executable, "-c", program]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

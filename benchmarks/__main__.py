"""``python -m benchmarks``: measure, print, and write the figures and their chart into the docs."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks import encoding, processes, reading, steps
from benchmarks.report import show, write

GROUPS = {
    "training": steps.run,
    "inference": encoding.run,
    "growth": encoding.growth,
    "data": reading.run,
    "processes": processes.run,
}
"""Each measures its results when it is called with a number of rounds."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure flava beside the published implementations; both take turns in one process.

    Nothing else should run on the machine. All of it takes about half an hour on two cores.
    """

    only: tuple[str, ...] = tuple(GROUPS)
    """Which groups: training, inference, growth, data, processes."""
    rounds: int = 5
    """How often each contender does each piece of work."""
    threads: int = 2
    page: Path = Path("docs/performance.md")
    """Where the tables go, with figures.json and a chart in the folder of its name. What is not
    measured now is kept."""


def main(arguments: Arguments) -> None:
    """Raises ValueError: there is no such group, or nothing to measure."""
    if unknown := set(arguments.only) - set(GROUPS):
        raise ValueError(f"--only: no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if arguments.rounds < 1:
        raise ValueError(f"--rounds is {arguments.rounds}: use at least 1")
    if not arguments.page.exists():
        raise ValueError(f"--page: there is no {arguments.page}; start it from the repository")
    torch.set_num_threads(arguments.threads)
    for group in arguments.only:
        found = list(GROUPS[group](arguments.rounds))
        show(group, found)
        write(arguments.page, group, found, arguments.threads)


try:
    main(tyro.cli(Arguments))
except ValueError as error:
    sys.exit(f"benchmarks: {error}")

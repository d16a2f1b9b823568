"""``python -m benchmarks``: measures, prints tables, and writes them with charts into the docs."""

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
"""Group -> the function that measures it, given the number of rounds."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure flava beside the published implementations, which take turns.

    Nothing else should run on the machine. All groups take about half an hour on two cores.
    """

    only: tuple[str, ...] = tuple(GROUPS)
    """The groups to measure: training, inference, growth, data, processes."""
    rounds: int = 5
    """How often each contender does each task."""
    threads: int = 2
    page: Path = Path("docs/performance.md")
    """The page to write the tables into. The folder of its name gets figures.json and charts.
    Groups that are not measured keep their tables."""


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
        results = list(GROUPS[group](arguments.rounds))
        show(group, results)
        write(arguments.page, group, results, arguments.threads)


try:
    main(tyro.cli(Arguments))
except ValueError as error:
    sys.exit(f"benchmarks: {error}")

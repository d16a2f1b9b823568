"""All tasks of the suite: selects them by name, and lists which of their data is there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flava.suite.language import NLP
from flava.suite.multimodal import MULTIMODAL, VARIANTS
from flava.suite.task import SuiteTask
from flava.suite.vision import VISION, ZERO_SHOT

Tasks = tuple[SuiteTask, ...]

TASKS: Tasks = (*VISION, *NLP, *MULTIMODAL)
"""The tasks that fill the 41 rows of Table C.1."""

GROUPS: Mapping[str, Tasks] = {
    "vision": VISION,
    "nlp": NLP,
    "multimodal": MULTIMODAL,
    "zero_shot": ZERO_SHOT,
    "variants": VARIANTS,
}
"""Names on the command line that stand for several tasks. The last two groups fill no row."""


def select(names: str, groups: Mapping[str, Tasks] = GROUPS) -> Tasks:
    """The tasks of comma-separated names and groups, each once, in the suite's order.

    Raises:
        ValueError: no name is given, or some are unknown; all groups and tasks are listed.
    """
    known = {task.name: task for tasks in groups.values() for task in tasks}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in groups and name not in known]
    if unknown or not wanted:
        problem = f"no task is called {', '.join(unknown)}" if unknown else "no task is named"
        available = "\n  ".join(
            f"{group}: {', '.join(task.name for task in tasks)}" for group, tasks in groups.items()
        )
        raise ValueError(
            f"{problem}. Give some of these groups and tasks, separated by commas:\n  {available}"
        )
    return tuple(
        task
        for group, tasks in groups.items()
        for task in tasks
        if group in wanted or task.name in wanted
    )


SHOWN = 4
"""Lines that the table shows of what a task lacks."""


def missing_data(task: SuiteTask, data_root: Path) -> list[str]:
    """What a task lacks below the data root, a line each."""
    folder = data_root / task.folder
    try:
        lines = task.missing(folder)
    except (ValueError, OSError) as error:
        return str(error).splitlines()
    # Not before: a task may find its data in another folder, as GLUE's in that of `datasets`.
    return [f"there is no folder {folder}"] if lines and not folder.is_dir() else lines


def availability(tasks: Sequence[SuiteTask], data_root: Path) -> Group:
    """A table of tasks: what is missing of their data, where it can be had, and its licence."""
    missing = {task.name: missing_data(task, data_root) for task in tasks}
    found = sum(not lines for lines in missing.values())
    heading = f"the data of {found} of {len(tasks)} tasks is in {data_root}"
    table = Table(show_lines=True)
    table.add_column("task", no_wrap=True)
    table.add_column("data", overflow="fold", ratio=3)
    table.add_column("where it can be had", overflow="fold", ratio=3)
    table.add_column("licence", overflow="fold", ratio=2)
    for task in tasks:
        lines = missing[task.name]
        state = "[green]found[/]"
        if lines:
            state = f"[red]missing:[/]\n{escape(_first_lines(lines, data_root))}"
        table.add_row(task.name, state, escape(task.source), escape(task.licence))
    return Group(Text(heading), table)


def _first_lines(lines: Sequence[str], data_root: Path) -> str:
    """The first lines, with paths relative to the data root, and how many more there are."""
    more = [f"and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more]).replace(f"{data_root}{os.sep}", "")


def print_availability(tasks: Sequence[SuiteTask], data_root: Path) -> None:
    Console().print(availability(tasks, data_root))

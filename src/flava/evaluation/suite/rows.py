"""Every task of the suite, and how a command line names some of them."""

from collections.abc import Mapping

from flava.evaluation.suite.multimodal import MULTIMODAL, VARIANTS
from flava.evaluation.suite.nlp import NLP
from flava.evaluation.suite.task import SuiteTask
from flava.evaluation.suite.vision import VISION, ZERO_SHOT

Tasks = tuple[SuiteTask, ...]

TASKS: Tasks = (*VISION, *NLP, *MULTIMODAL)
"""Those that fill the 41 rows of Table C.1."""

GROUPS: Mapping[str, Tasks] = {
    "vision": VISION,
    "nlp": NLP,
    "multimodal": MULTIMODAL,
    "zero_shot": ZERO_SHOT,
    "variants": VARIANTS,
}
"""What a name on the command line stands for, beside the tasks' own names; the last two fill no
row."""


def select(names: str, groups: Mapping[str, Tasks] = GROUPS) -> Tasks:
    """The tasks of comma-separated names and groups, each once, in the suite's order.

    Raises:
        ValueError: no name is given, or some are unknown; what there is is listed.
    """
    known = {task.name: task for tasks in groups.values() for task in tasks}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in groups and name not in known]
    if unknown or not wanted:
        said = f"no task is called {', '.join(unknown)}" if unknown else "no task is named"
        listed = "\n  ".join(
            f"{group}: {', '.join(task.name for task in tasks)}" for group, tasks in groups.items()
        )
        raise ValueError(
            f"{said}. There are, separated by commas, these groups and tasks:\n  {listed}"
        )
    return tuple(
        task
        for group, tasks in groups.items()
        for task in tasks
        if group in wanted or task.name in wanted
    )

"""The eight GLUE tasks of Table C.1: text encoders fine-tuned end to end."""

from functools import partial
from pathlib import Path

from flava.suite.language.glue import GLUE, Glue
from flava.suite.language.measure import measure
from flava.suite.language.reading import missing
from flava.suite.task import SuiteTask


def suite_task(task: Glue) -> SuiteTask:
    """The task as the suite knows it."""

    def lacking(folder: Path) -> list[str]:
        return missing(folder, task)

    return SuiteTask(
        name=task.name,
        group="nlp",
        rows=((task.row, task.metrics[0]),),
        folder=task.folder,
        source=f"{task.row} of gluebenchmark.com/tasks, or {task.name} of the hub's nyu-mll/glue",
        licence=task.licence,
        missing=lacking,
        measure=partial(measure, task),
    )


NLP = tuple(suite_task(task) for task in GLUE)

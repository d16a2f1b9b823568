"""The eight GLUE tasks of Table C.1: text encoders fine-tuned end to end."""

from functools import partial

from flava.suite.language.glue import GLUE, GlueTask
from flava.suite.language.glue_files import missing
from flava.suite.language.measure import measure
from flava.suite.task import SuiteTask


def suite_task(task: GlueTask) -> SuiteTask:
    """The task as the suite runs it."""
    return SuiteTask(
        name=task.name,
        group="nlp",
        rows=((task.row, task.metrics[0]),),
        folder=task.folder,
        source=f"{task.row} of gluebenchmark.com/tasks, or {task.name} of the hub's nyu-mll/glue",
        licence=task.licence,
        missing=partial(missing, task=task),
        measure=partial(measure, task),
    )


NLP = tuple(suite_task(task) for task in GLUE)

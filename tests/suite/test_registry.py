from collections import Counter

import pytest

from flava.suite import paper
from flava.suite.registry import GROUPS, TASKS, select
from tests.suite.tasks import made_task

SETS = {
    "vision": (made_task("cifar10"), made_task("mnist")),
    "nlp": (made_task("sst-2", group="nlp"), made_task("rte", group="nlp")),
    "multimodal": (made_task("vqa", group="multimodal"),),
}


def names(wanted: str) -> list[str]:
    return [task.name for task in select(wanted, SETS)]


def test_a_group_is_all_its_tasks():
    assert names("vision") == ["cifar10", "mnist"]
    assert names("nlp,multimodal") == ["sst-2", "rte", "vqa"]


def test_names_and_groups_mix_each_task_once_in_the_suites_order():
    assert names("vqa, mnist") == ["mnist", "vqa"]
    assert names("rte,nlp,rte") == ["sst-2", "rte"]


def test_unknown_names_are_all_told_with_what_there_is():
    with pytest.raises(ValueError) as caught:
        select("mnist,cifar,SST-2", SETS)
    said = str(caught.value)
    assert "no task is called cifar, SST-2." in said
    for line in ("vision: cifar10, mnist", "nlp: sst-2, rte", "multimodal: vqa"):
        assert line in said


@pytest.mark.parametrize("empty", ["", " , "])
def test_no_name_at_all_is_an_error_too(empty):
    with pytest.raises(ValueError, match=r"no task is named\. Give some of these"):
        select(empty, SETS)


def test_the_suites_tasks_have_names_of_their_own():
    named = [task.name for tasks in GROUPS.values() for task in tasks]
    assert len(set(named)) == len(named)
    assert not set(named) & set(GROUPS)


def test_each_row_of_the_table_is_filled_by_one_task_of_its_group():
    rows = Counter((row, task.group) for task in TASKS for row, _ in task.rows)
    in_table = Counter((row.task, row.group) for row in paper.rows())
    joined = {task.group for task in TASKS}
    assert rows == Counter({each: n for each, n in in_table.items() if each[1] in joined})


@pytest.mark.parametrize("group", ["zero_shot", "variants"])
def test_other_tasks_fill_no_row(group):
    assert not [task.name for task in GROUPS[group] if task.rows]

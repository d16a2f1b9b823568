import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from flava.suite.language import NLP
from flava.suite.language.glue import SST2
from flava.suite.registry import SHOWN, availability, missing_data
from flava.suite.task import SuiteTask
from tests.suite.language.glue_data import samples, write_hub
from tests.suite.tasks import data_for, made_task


def rows(tasks: list[SuiteTask], root: Path) -> tuple[str, dict[str, list[list[str]]]]:
    """The title, and task -> the lines of its row, as they are drawn."""
    console = Console(width=600, file=io.StringIO(), record=True)
    console.print(availability(tasks, root))
    title, *lines = console.export_text().splitlines()
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in lines:
        if line.startswith("│"):
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            name = cells[0] or name
            found.setdefault(name, []).append(cells)
    return title, found


def test_found_and_missing_with_source_and_licence(tmp_path):
    here, gone, partly = made_task("here"), made_task("gone"), made_task("partly")
    root = data_for(tmp_path / "data", here)
    (root / partly.folder).mkdir()
    title, found = rows([here, gone, partly], root)
    assert title.strip() == f"the data of 1 of 3 tasks is in {root}"
    assert found == {
        "here": [["here", "found", "https://example.org/here", "licence of here"]],
        "gone": [
            ["gone", "missing:", "https://example.org/gone", "licence of gone"],
            ["", "there is no folder gone-data", "", ""],
        ],
        "partly": [
            ["partly", "missing:", "https://example.org/partly", "licence of partly"],
            ["", "data.txt", "", ""],
        ],
    }


def test_a_long_list_is_cut_and_counted(tmp_path):
    files = [f"image-{i}.jpg" for i in range(2_000)]
    task = replace(made_task("big"), missing=lambda _: files)
    (tmp_path / "big-data").mkdir()
    _, found = rows([task], tmp_path)
    state = [cells[1] for cells in found["big"]]
    assert state == ["missing:", *files[:SHOWN], f"and {2_000 - SHOWN:,} more"]
    assert missing_data(task, tmp_path) == files


def test_glue_is_found_in_the_folders_that_datasets_names(tmp_path):
    (task,) = [each for each in NLP if each.name == SST2.name]
    for split in ("train", "validation"):
        write_hub(tmp_path / "glue" / "sst2", SST2, split, samples(SST2, 4))
    assert missing_data(task, tmp_path) == []
    (tmp_path / "glue" / "sst2" / "validation-00000-of-00001.parquet").unlink()
    assert missing_data(task, tmp_path)


def test_brackets_in_texts_are_no_markup(tmp_path):
    odd = replace(made_task("odd"), source="see [bold]there[/]", licence="[red]none")
    _, found = rows([odd], data_for(tmp_path / "[x]", odd))
    assert found["odd"] == [["odd", "found", "see [bold]there[/]", "[red]none"]]


def test_data_that_cannot_be_read_is_missing_with_its_reason(tmp_path):
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(f"{folder} may not be read")

    task = replace(made_task("closed"), missing=refuse)
    (tmp_path / "closed-data").mkdir()
    assert missing_data(task, tmp_path) == [f"{tmp_path / 'closed-data'} may not be read"]

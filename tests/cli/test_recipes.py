import json
import subprocess
import sys
import time

import pytest
from rich.console import Console

from flava.cli.recipes import _recipe_json, _recipe_table
from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS
from flava.training.run import RUN
from tests.commands import Command, in_this_process


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def rows() -> dict[str, list[str]]:
    """The cells of each recipe's row."""
    console = Console(width=400)
    with console.capture() as capture:
        console.print(_recipe_table())
    lines = [line.strip("│").split("│") for line in capture.get().splitlines() if "│" in line]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_every_recipe_has_a_row() -> None:
    assert set(rows()) == {*RECIPES, "clip-400m"}


def test_the_released_column_is_evaluated_and_not_trained(flava: Command) -> None:
    assert rows()["clip-400m"][-1] == "14"
    ended = flava("recipes", "show", "clip-400m")
    assert ended.status == 1
    assert "flava evaluate openai/clip-vit-base-patch16 --output-dir runs/clip-400m" in ended.error


def test_a_row_tells_data_sources_updates_and_column() -> None:
    found = rows()
    about, data, sources, updates, column = found["flava-dino"]
    assert about.startswith("All five objectives from a DINO image encoder")
    assert data == "0.70 pmd, 0.15 imagenet-1k, 0.15 ccnews + bookcorpus"
    assert sources == "image-dino, text-mlm, codebook"
    assert (updates, column) == ("214,286", "12")
    assert found["flava-c-local-tiny"][1:3] == ["embedded:pairs", "scratch"]
    assert found["flava-c-local-tiny"][4] == "3"
    assert found["codebook-tiny"][4] == ""


def test_the_command_lists_them_and_shows_one(flava: Command) -> None:
    for arguments in (["recipes"], ["recipes", "list"]):
        listed = flava(*arguments)
        assert listed.status == 0
        assert "Recipes of flava train" in listed.out
    shown = flava("recipes", "show", "clip-pmd")
    assert shown.status == 0
    assert '"vocabulary": "clip"' in shown.out


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_shown_with_every_field(name: str) -> None:
    assert RUN.validate_json(_recipe_json(name)) == RECIPES[name]()
    assert json.loads(_recipe_json(name))["recipe"] == name


def test_an_unknown_recipe_is_an_error_that_lists_the_known(flava: Command) -> None:
    ended = flava("recipes", "show", "flava-huge")
    assert ended.status == 1
    assert "there is no recipe 'flava-huge': choose one of flava-tiny, codebook-tiny" in ended.error


def test_help_is_quick(flava: Command) -> None:
    """However many recipes there are: 0.01 to 0.07 s of the processor, once all is imported."""
    commands = (["--help"], ["train", "--help"], ["train", "flava-dino", "--help"])
    assert all(flava(*arguments).status == 0 for arguments in commands)
    started = time.process_time()
    assert all(flava(*arguments).status == 0 for arguments in commands)
    assert time.process_time() - started < 2


def test_a_recipe_is_found_by_its_process() -> None:
    """Where the arguments come from the system, as in the installed command."""
    command = [sys.executable, "-m", "flava", "train", "flava-c-tiny", "--max-steps", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "max_steps is 0: it should be greater than 0" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, "Infinity") for name in COLUMNS] + [("image-beit", "3.0"), ("image-dino", "0.3")],
)
def test_only_what_is_published_with_clipping_clips(flava: Command, name: str, norm: str) -> None:
    """The paper's columns have none; BEiT's and DINO's protocols have."""
    assert f'"max_grad_norm": {norm}' in flava("recipes", "show", name).out


@pytest.mark.parametrize("name", [name for name, column in COLUMNS.items() if column > 2])
def test_the_papers_columns_are_chosen_by_imagenet(flava: Command, name: str) -> None:
    shown = flava("recipes", "show", name).out
    assert '"validator": "imagenet"' in shown
    assert '"validate_every": 8000' in shown

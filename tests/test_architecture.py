"""The picture of the folders, docs/architecture.svg, against the source that it is drawn from."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scripts.draw_architecture import (
    OUTPUT,
    WAYS,
    Architecture,
    Picture,
    Way,
    main,
    read_layers,
    without_implied,
)

ROOT = Path(__file__).parents[1]


def test_the_committed_picture_is_the_one_that_is_drawn_from_the_source(tmp_path: Path) -> None:
    assert main([str(tmp_path / "drawn.svg")]) == 0
    drawn = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert drawn == OUTPUT.read_text(encoding="utf-8"), "run `make architecture`"


def test_every_folder_and_every_step_is_in_the_picture() -> None:
    picture = ElementTree.parse(OUTPUT)
    shown = ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    folders = {path.parent.name for path in (ROOT / "src" / "flava").glob("*/__init__.py")}
    assert folders <= {*shown}
    assert {step.replace(".", "/") for way in WAYS for step in way.steps} <= {*shown}


@pytest.mark.parametrize("page", ["architecture.md", "decisions/0001-floors.md"])
def test_a_table_of_floors_is_that_of_the_contract(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    floors: dict[int, set[str]] = {}
    for number, folders in re.findall(r"^\| (\d+) \| (`[^|]*`) \|", text, re.MULTILINE):
        floors.setdefault(int(number), set()).update(re.findall(r"`(\w+)/?`", folders))
    rows = read_layers(ROOT / "pyproject.toml")
    assert floors == {len(rows) - number: {*row} for number, row in enumerate(rows)}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "decisions").glob("*.md")]
PLACES = (ROOT, ROOT / "src" / "flava")


def missing(named: set[str]) -> list[str]:
    return sorted(name for name in named if not any((at / name).exists() for at in PLACES))


def test_the_page_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+\w*(?:\.\w+)?)`", page))
    assert len(named) > 20
    assert not missing(named), "docs/architecture.md names what does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_names_modules_and_tests_that_exist(page: Path) -> None:
    folders = {path.parent.name for path in (ROOT / "src" / "flava").glob("*/__init__.py")}
    known = "|".join(sorted({"src", "tests", "scripts", "benchmarks", *folders}))
    assert not missing(set(re.findall(rf"\b((?:{known})/[\w/]*\.py)\b", page.read_text())))


def test_a_step_that_does_not_exist_or_is_not_joined_is_named() -> None:
    steps = ("data.shards", "suite.paper", "data.nowhere")
    with pytest.raises(SystemExit) as stop:
        Architecture(ways=[Way(title="a way", subtitle="", steps=steps, after={})])
    said = str(stop.value)
    assert "a way: flava.data.shards and flava.suite.paper do not import one another" in said
    assert "a way: there is no module flava.data.nowhere" in said


def test_only_edges_that_no_longer_path_implies_stay() -> None:
    edges = ["ab", "bc", "ac", "cd", "ad", "ae", "ed"]
    kept = without_implied((source, target) for source, target in edges)
    assert kept == [("a", "b"), ("a", "e"), ("b", "c"), ("c", "d"), ("e", "d")]


def test_a_floor_that_the_script_does_not_know_has_gaps_for_imports_to_pass(
    tmp_path: Path,
) -> None:
    for name, content in {
        "top": "from flava import base, left, right",
        "left": "",
        "right": "",
        "base": "",
    }.items():
        file = tmp_path / "src" / "flava" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""The {name}."""\n{content}\n')
    (tmp_path / "pyproject.toml").write_text(
        """
        [[tool.importlinter.contracts]]
        layers = ["top", "left | right", "base"]
        """
    )
    ways = [Way(title="a way", subtitle="", steps=("top", "base"), after={})]
    picture = Picture(Architecture(tmp_path, ways))
    drawn = ElementTree.fromstring(picture.draw())
    imports = [each for each in drawn.iter() if each.get("class") == "import"]
    assert len(imports) == 3
    between = picture.boxes["left"].right, picture.boxes["right"].left
    _, passing, _ = picture.gaps_on_the_way("top", "base")
    assert between[0] < passing < between[1]


def test_layers_are_those_of_the_contract_that_exist(tmp_path: Path) -> None:
    for folder in ("top", "left", "base"):
        (tmp_path / "src" / "flava" / folder).mkdir(parents=True)
    (tmp_path / "src" / "flava" / "right.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        """
        [[tool.importlinter.contracts]]
        layers = ["top", "left | right", "(absent)", "(base)"]
        """
    )
    assert read_layers(tmp_path / "pyproject.toml") == [["top"], ["left", "right"], ["base"]]

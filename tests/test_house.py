"""`scripts/measure_house.py` on a made-up house, of which each figure was counted by hand."""

from pathlib import Path

import pytest
from scripts.measure_house import ALLOWED_TWICE, House, main

FILES = {
    "__init__.py": "",
    "recipes/__init__.py": "",
    "recipes/start.py": """
        from functools import partial

        from house.data import loader
        from house.training.loop import Trainer
        from house.training.tools import both, later, read


        def start(run):
            problems = misfits(run)
            both(read(run.data), problems)
            loader.Loader(run.data)
            Trainer(run, partial(later, run))
            read(run)


        def misfits(run):
            return []
        """,
    "training/__init__.py": "from house.training.tools import both",
    "training/loop.py": """
        from dataclasses import replace
        from typing import TYPE_CHECKING

        from house.data.loader import Found
        from house.training import both
        from . import tools

        try:
            import house.files
        except ImportError:
            house = None

        if TYPE_CHECKING:
            from house.training.files import Unread


        class Trainer:
            def __init__(self, run, work):
                self.run = run
                both(None, [])

            def train(self):
                import house.recipes.start

                tools.read(self.run)
                return both(replace(self.run, step=1), [])
        """,
    "training/tools.py": """
        def both(run, problems):
            return _hidden(f"{run}")


        def read(data):
            return alone(data)


        def later(run):
            return run


        def alone(data):
            return data


        def _hidden(text):
            return text
        """,
    "training/files.py": """
        Unread = int
        SEED = 0


        class Settings:
            @property
            def mistakes(self):
                return []

            def all_problems(self):
                return []

            def problematic(self):
                return []
        """,
    "data/__init__.py": "",
    "data/loader.py": """
        Found = str


        class Loader:
            def __init__(self, config):
                self.config = config


        class Settings:
            pass


        def size_misfits():
            return []
        """,
    "files.py": """
        COMMANDS = {"size-misfits": 1}


        class Found:
            Unread = 1
        """,
}

PYPROJECT = """
[[tool.importlinter.contracts]]
name = "others"
containers = ["house.data"]
layers = ["loader"]

[[tool.importlinter.contracts]]
name = "floors"
containers = ["house"]
layers = ["recipes", "(training)", "data | files"]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    for name, text in FILES.items():
        path = tmp_path / "src" / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line.removeprefix(" " * 8) for line in text.strip("\n").splitlines()]
        path.write_text("\n".join(lines).strip() + "\n" if text else "")
    return tmp_path / "src" / "house"


def test_every_figure_is_that_counted_by_hand(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree)]) == 0
    table, *lists = capsys.readouterr().out.split("\n\n")
    assert dict(row.strip("| ").split(" | ") for row in table.splitlines()[2:]) == {
        "files": "10",
        # 0, 0, 0, 1, 5, 14, 14, 17, 18, 26
        "median lines of a file": "9.5",
        "lines of the longest file": "26 (training/loop.py)",
        # files.py
        "file names used more than once": "1, 2 times in all",
        # Settings
        "class names used more than once": "1, 2 times in all",
        # Found, once as a class; Unread is at the top of one module alone
        "other CamelCase names used more than once": "1, 2 times in all",
        # itself, tools, data.loader, files; and house, house.training, house.data around them
        "modules loaded by house.training.loop": "7",
        # start, tools, start, loader, start, loop, tools, loop, start, tools, start
        "following the run: files": "4",
        "following the run: back up to a higher floor": "4",
        "following the run: returns to a file": "7",
        # start and misfits, each in its own module; alone
        "public functions without a mention elsewhere": "3",
        # mistakes, all_problems
        "checks by hand: methods and properties": "2",
        # misfits, size_misfits
        "checks by hand: functions": "2",
    }
    assert "- files.py, 2 times: files.py, training/files.py" in lists


def test_the_walk_goes_to_each_call_that_is_given_the_run_and_comes_back(tree: Path) -> None:
    house = House(tree)
    path = house.path_of_run("house.recipes.start.start")
    start, tools, loop = "recipes/start.py", "training/tools.py", "training/loop.py"
    # `read`, but not `both` around it; `Loader`; `Trainer`, and `both` from there, which is not
    # given the run in its first call; `later`. At the end `read` is passed over.
    to_tools, to_loader, to_loop = [tools], ["data/loader.py"], [loop, tools, loop]
    assert path == [start, *to_tools, start, *to_loader, start, *to_loop, start, *to_tools, start]


def test_what_is_asked_for_and_not_there_is_one_line(tree: Path) -> None:
    with pytest.raises(SystemExit, match=r"no function house\.begin: give --start"):
        main([str(tree), "--start", "house.begin"])
    with pytest.raises(SystemExit, match=r"no module house\.loop"):
        main([str(tree), "--trainer", "house.loop"])
    (tree.parents[1] / "pyproject.toml").unlink()
    with pytest.raises(SystemExit, match=r"no pyproject\.toml above .* has the layers of house"):
        main([str(tree)])


def test_the_check_names_what_breaks_a_rule(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "long.py").write_text("\n" * 401)
    (tree / "short.py").write_text("\n" * 400)
    assert main([str(tree), "--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "long.py has 401 lines: at most 400 are allowed",
        "the file name files.py is used 2 times: files.py, training/files.py",
        "the class name Settings is used 2 times: data/loader.py, training/files.py",
    ]
    (tree / "long.py").unlink()
    monkeypatch.setitem(ALLOWED_TWICE, "file", frozenset({"files.py"}))
    monkeypatch.setitem(ALLOWED_TWICE, "class", frozenset({"Settings"}))
    assert main([str(tree), "--check"]) == 0
    assert capsys.readouterr().out == ""

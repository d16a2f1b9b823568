"""The README as a user follows it: its Python runs, its commands are understood, and most run.

Names that it loads from the hub are folders here: `flava.load` takes a folder of that name first,
so nothing of the package is replaced.
"""

import ast
import functools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import flava.cli
from flava.data.tokenizers import Tokenizer
from flava.models import Codebook, Flava, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava.training.checkpoint import save_checkpoint
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, picture
from tests.prepare.made import photo, write_coco, write_pairs
from tests.tiny_runs import CODEBOOK

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SOURCE = re.compile(r"[\w.-]+(/[\w.-]+)+")

ONLY_UNDERSTOOD = {
    "make demo": "eleven minutes; tests/end_to_end/test_tiny_run.py trains and evaluates so",
    "make test": "this test is a part of it",
    "pip install": "the extra is looked up in pyproject.toml",
    ". .venv/bin/activate": "`make install` writes it",
    "flava train flava-tiny --output-dir runs/mine": "minutes; tests/end_to_end trains it",
    "flava evaluate runs/mine": "a minute and more; tests/evaluation/test_evaluate_run.py runs it",
    "flava report runs/mine": "needs the run; tests/reports/test_run_report.py writes it",
    "flava evaluate facebook/flava-full": "as flava evaluate runs/mine; --tasks need their data",
    "flava convert facebook/flava-full programs --to onnx": "no program can be traced through the "
    "checks of shapes in the tests' process; tests/inference/test_onnx_programs.py writes them",
    "flava reproduce": "hours; tests/end_to_end/test_quick_reproduction.py runs a part",
    "torchrun": "needs four machines",
    "flava plan": "tests/planning/test_plan.py runs it",
}
"""How commands begin that are checked without being run, with the reason."""


def blocks(language: str, page: Path = README) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The commands of a block of shell, in words; lines that end in a backslash are joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def written_commands() -> list[str]:
    """Every command of the README's and the cluster page's blocks, and those within sentences."""
    pages = (README, ROOT / "docs" / "cluster.md")
    found = [shlex.join(c) for page in pages for b in blocks("sh", page) for c in commands(b)]
    inline = re.findall(r"`(flava (?:train|plan) [a-z][^`]* [^`]+)`", README.read_text())
    inside = [" ".join(each.split()) for each in inline if not each.endswith("--help")]
    return list(dict.fromkeys([*found, *inside]))


def is_only_understood(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in ONLY_UNDERSTOOD)


@pytest.mark.parametrize("command", written_commands())
def test_a_command_is_one_that_exists_with_these_options(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of `flava` is read by its own parser, but what it would call only notes that."""
    match shlex.split(command):
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["pip", "install", package]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert package.removeprefix("flava[").strip("]") in extras["optional-dependencies"]
        case [".", _]:
            pass
        case ["torchrun", *_, "-m", "flava", "train", recipe, "--output-dir", folder, "--resume"]:
            check_parsed(["train", recipe, "--output-dir", folder, "--resume"], monkeypatch)
        case ["flava", *arguments]:
            check_parsed(arguments, monkeypatch)
        case words:
            raise AssertionError(f"no rule says how to check {words[0]}")


def check_parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load, given = flava.cli.load, []

    def noting(name: str) -> Callable[..., Any]:
        function = load(name)

        @functools.wraps(function)
        def note(*_positional: Any, **_options: Any) -> None:
            given.append(name)

        return note

    monkeypatch.setattr(flava.cli, "load", noting)
    assert flava.cli.main(arguments) == 0
    assert given == arguments[:1]


def test_the_options_that_sentences_name_are_options_of_flava_train(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {
        "--validator": "pairs",
        "--validation": "held_out.tar",
        "--validate-every": "10",
        "--parallel": "hybrid",
        "--data.root": "data",
        "--data.images.weight": "0",
        "--data.pairs.shards": "pairs.tar",
        "--data.images.shards": "images",
        "--data.text.shards": "text.jsonl",
    }
    named = set(re.findall(r"`(--[\w.-]+)", README.read_text()))
    assert named >= values.keys(), "the README names others"
    check_parsed(
        ["train", "flava-tiny", *(w for each in values.items() for w in each)], monkeypatch
    )


def test_no_exception_is_left_over() -> None:
    for beginning in ONLY_UNDERSTOOD:
        assert any(each.startswith(beginning) for each in written_commands()), beginning


def strings(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def small_model() -> Flava:
    """Of the shipped vocabulary."""
    sides: Any = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    config = FlavaConfig(
        image=ImageConfig(image_size=16, patch_size=8, **sides),
        text=TextConfig(vocabulary_size=Tokenizer().size, **sides),
        multimodal=MultimodalConfig(**sides),
        projection_width=8,
        codebook=CODEBOOK,
    )
    return Flava(config)


def write_models(folder: Path, *names: str) -> None:
    for name in names:
        save_checkpoint(folder / Path(name).parent, Path(name).name, small_model())


def write_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, 60, 50).save(path)


@pytest.mark.parametrize("code", blocks("python"))
def test_a_block_of_python_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    named = list(strings(code))
    models = [n for n in named if SOURCE.fullmatch(n) and not n.endswith(PICTURES)]
    assert models, "the block loads no model"
    write_models(tmp_path, *models)
    for number, name in enumerate(named):
        if name.endswith(PICTURES):
            write_photo(tmp_path / name, number)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip(), "it shows nothing"


def write_users_files(folder: Path) -> None:
    """What the commands of "Use" read: models, photos, a table of captions, labelled samples."""
    write_models(folder, "facebook/flava-full", "runs/demo")
    write_photo(folder / "cat.jpg", 0)
    rows, captions = ["image,text,label"], ["image,text"]
    for number in range(12):
        label = ("cat", "dog")[number % 2]
        write_photo(folder / "photos" / f"{number}.jpg", number)
        write_photo(folder / "labelled" / label / f"{number}.jpg", number)
        captions.append(f"photos/{number}.jpg,a {label}")
        rows.append(f"photos/{number}.jpg,a {label},{label}")
    (folder / "captions.csv").write_text("\n".join(captions))
    (folder / "table.csv").write_text("\n".join(rows))


def write_published_files(folder: Path) -> None:
    """What the commands of "The paper's data" read: COCO, Conceptual 12M as fetched, ImageNet."""
    pictures = {f"{number}.jpg": encoded(photo(number), "JPEG") for number in range(6)}
    write_coco(folder, pictures, [(name, f"picture {name}") for name in pictures])
    (folder / "images").rename(folder / "coco")
    train = folder / "captions_train2014.json"
    content = json.loads(train.read_text())
    shutil.copy(train, folder / "captions_val2014.json")
    half = len(content["annotations"]) // 2
    for path, part in ((train, slice(half)), (folder / "captions_val2014.json", slice(half, None))):
        path.write_text(json.dumps({**content, "annotations": content["annotations"][part]}))
    write_photo(folder / "data" / "flickr30k" / "0.jpg", 100)
    write_pairs(folder, 6)
    (folder / "fetched").rename(folder / "images")
    for number, synset in enumerate(("n01440764", "n02119789")):
        path = folder / "train" / synset / f"{number}.JPEG"
        path.parent.mkdir(parents=True)
        photo(200 + number).save(path, "JPEG")
    save_checkpoint(folder / "runs", "codebook", Codebook(CODEBOOK))


WRITERS: dict[str, Callable[[Path], None]] = {
    "flava embed": write_users_files,
    "flava data sources": write_published_files,
    "flava evaluate --dry-run": lambda folder: (folder / "data").mkdir(),
}
"""What writes the files that a block reads, by how one of its commands begins."""


def blocks_that_run() -> list[str]:
    """The blocks of the README with a command that is not only understood."""
    return [
        block
        for block in blocks("sh")
        if not all(is_only_understood(shlex.join(each)) for each in commands(block))
    ]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


@pytest.mark.parametrize(
    "block", blocks_that_run(), ids=lambda block: " ".join(commands(block)[-1][:3])
)
def test_the_commands_of_a_block_run_one_after_another(
    block: str, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = [shlex.join(each) for each in commands(block)]
    for beginning, write in WRITERS.items():
        if any(each.startswith(beginning) for each in written):
            write(tmp_path)
    for command in written:
        if not is_only_understood(command):
            ended = run(*shlex.split(command)[1:])
            assert ended.status == 0, f"{command}: {ended.error}"
            assert ended.out, f"{command} shows nothing"


def test_every_link_and_every_folder_of_the_readme_exists() -> None:
    text = README.read_text()
    targets = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert not [target for target in targets if not (ROOT / target).exists()]
    named = set(re.findall(r"^  (\w+)/ ", text, re.MULTILINE))
    assert named == {path.parent.name for path in (ROOT / "src" / "flava").glob("*/__init__.py")}


def test_importing_the_package_is_light() -> None:
    code = (
        "import flava, sys; print(sorted(m for m in ('torch', 'numpy', 'PIL') if m in sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_loading_imports_neither_evaluation_nor_torchvision() -> None:
    """These take more time than loading a model."""
    heavy = ("sklearn", "matplotlib", "torchvision", "pandas", "transformers", "tensorboard")
    code = f"import flava, sys; flava.load; print([m for m in {heavy} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_what_the_package_does_not_have_is_an_error() -> None:
    import flava

    assert set(flava.__all__) <= set(dir(flava))
    assert callable(flava.load)
    assert flava.Pretrained.__name__ == "Pretrained"
    with pytest.raises(AttributeError, match="module 'flava' has no attribute 'lode'"):
        _ = flava.lode  # pyright: ignore[reportAttributeAccessIssue]

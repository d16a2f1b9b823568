"""The README's first block of Python, run as it stands by a new process.

Names that it loads from the hub are folders here: `flava.load` takes a folder of that name first,
so nothing of the package is replaced.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flava.data.tokenizers import Tokenizer
from flava.models import Flava, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from flava.training.checkpoint import save_checkpoint
from tests.data.shard_files import picture
from tests.tiny_runs import CODEBOOK

README = Path(__file__).parents[1] / "README.md"
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
SOURCE = re.compile(r"[\w.-]+(/[\w.-]+)+")


def first_block() -> str:
    found = re.search(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert found, "the README has no block of Python"
    return found[1]


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


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the pictures and the models that the block names, small ones."""
    named = list(strings(first_block()))
    models = [n for n in named if SOURCE.fullmatch(n) and not n.endswith(PICTURES)]
    assert models, "the block loads no model"
    for name in models:
        save_checkpoint(tmp_path / Path(name).parent, Path(name).name, small_model())
    for number, name in enumerate(named):
        if name.endswith(PICTURES):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            picture(number, 60, 50).save(tmp_path / name)
    return tmp_path


def test_the_first_block_runs_as_it_stands(place: Path) -> None:
    command = [sys.executable, "-c", first_block()]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip(), "it shows nothing"


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

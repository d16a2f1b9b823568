"""ONNX programs, run by ONNX Runtime, beside the model in PyTorch that they were made of."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from jaxtyping import config as jaxtyping_config
from torch import Tensor

from flava.data.tokenizers import Tokenizer
from flava.inference.export import export
from flava.inference.onnx_programs import _programs_of
from flava.models import Clip, Flava
from tests.inference.models import tiny_clip
from tests.support import random_texts, randomise, tiny_config, tiny_model

LENGTHS = [(1,), (12,), (3, 12, 1, 7, 5), (4, 2)]
"""Of texts: none of these batches is as large as the example that programs are traced with."""
Written = tuple[Flava | Clip, Path]


def worded() -> Flava:
    """With the shipped vocabulary, and a block an encoder: tracing takes seconds."""
    config = tiny_config()
    image, multimodal = replace(config.image, depth=1), replace(config.multimodal, depth=1)
    text = replace(config.text, vocabulary_size=Tokenizer().size, depth=1)
    model = Flava(replace(config, image=image, text=text, multimodal=multimodal))
    randomise(model, std=0.5)  # so that one block mixes what it reads
    return model.eval()


def clip() -> Clip:
    """In training, where blocks are left out at random."""
    config = tiny_clip().config
    model = Clip(replace(config, image=replace(config.image, drop_path=0.5)))
    randomise(model)
    return model.train()


@pytest.fixture(scope="module", params=["flava", pytest.param("clip", marks=pytest.mark.slow)])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A model, and the folder of its programs."""
    model = worded() if request.param == "flava" else clip()
    training = model.training
    jaxtyping_config.update("jaxtyping_disable", True)  # torch.export cannot trace its checks
    try:
        folder = export(model, tmp_path_factory.mktemp("programs") / request.param, "onnx")
    finally:
        jaxtyping_config.update("jaxtyping_disable", False)
    assert model.training is training
    return model.eval(), folder


only_flava = pytest.mark.parametrize("written", ["flava"], indirect=True)


def run(folder: Path, program: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    """All outputs of a program."""
    session = onnxruntime.InferenceSession(folder / f"{program}.onnx")
    names = [each.name for each in session.get_inputs()]
    feed = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    return tuple(torch.from_numpy(np.asarray(each)) for each in session.run(None, feed))


def same(found: Tensor, expected: Tensor) -> None:
    """Within what the order of sums does in 32 bits, and no constant of the weights."""
    assert len(expected) == 1 or expected.std(dim=0).mean() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("lengths", LENGTHS)
def test_embeddings_are_those_of_the_model(written: Written, lengths: tuple[int, ...]) -> None:
    model, folder = written
    pixels = torch.randn(len(lengths), 3, 24, 24)
    (image,) = run(folder, "image", pixels)
    same(image, model.encode_image(pixels))
    texts = random_texts(tiny_config(), list(lengths))
    (text,) = run(folder, "text", texts.input_ids, texts.attention_mask.long())
    same(text, model.encode_text(texts.input_ids, texts.attention_mask))


@torch.no_grad()
@pytest.mark.parametrize("lengths", LENGTHS)
@only_flava
def test_pairs_are_those_of_the_model(written: Written, lengths: tuple[int, ...]) -> None:
    model, folder = written
    assert isinstance(model, Flava)
    pixels, texts = torch.randn(len(lengths), 3, 24, 24), random_texts(tiny_config(), list(lengths))
    joint, probability = run(folder, "pair", pixels, texts.input_ids, texts.attention_mask.long())
    image, text = (
        model.image_encoder(pixels),
        model.text_encoder(texts.input_ids, texts.attention_mask),
    )
    states = model.multimodal(image, text, texts.attention_mask)
    same(joint, states[:, 0])
    same(probability, model.itm_head(states).softmax(dim=1)[:, 1])


@only_flava
def test_padding_does_not_matter(written: Written) -> None:
    _, folder = written
    texts, pixels = random_texts(tiny_config(), [3, 7, 5]), torch.randn(3, 3, 24, 24)
    attention_mask = torch.nn.functional.pad(texts.attention_mask, (0, 4))
    input_ids = torch.nn.functional.pad(texts.input_ids, (0, 4)).where(attention_mask, 17)
    for program, before in (("text", ()), ("pair", (pixels,))):
        found = run(folder, program, *before, input_ids, attention_mask.long())
        expected = run(folder, program, *before, texts.input_ids, texts.attention_mask.long())
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)


def test_the_readme_describes_the_programs_as_onnxruntime_sees_them(written: Written) -> None:
    _, folder = written
    table = set(re.findall(r"^\| `.*\|$", (folder / "README.md").read_text(), re.MULTILINE))
    types = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for path in folder.glob("*.onnx"):
        session = onnxruntime.InferenceSession(path)
        for role, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
            for each in values:
                shape = ", ".join(map(str, each.shape))
                row = f"| `{path.name}` | {role} | `{each.name}` | {types[each.type]} | {shape} |"
                table.remove(row)
    assert not table


@torch.no_grad()
@only_flava
def test_the_readmes_example_runs_without_pytorch_and_without_flava(written: Written) -> None:
    model, folder = written
    found = re.search(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.S | re.M)
    assert found
    blocked = "import sys\nsys.modules |= dict.fromkeys(('torch', 'flava'))\n"
    said = subprocess.run(
        [sys.executable, "-c", f"{blocked}{found[1]}\nprint(embeds.tolist())"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = model.encode_text(*Tokenizer().batch(["a cat", "a big dog"], 12))
    same(torch.tensor(json.loads(said)), expected)


def test_without_its_head_a_pairs_program_tells_no_match() -> None:
    model = tiny_model()
    model.missing_parts = frozenset({"itm_head"})
    pair = _programs_of(model)[-1]
    input_ids = torch.ones(2, 5, dtype=torch.int64)
    assert pair.outputs == ("multimodal_embeds",)
    assert len(pair.module(torch.randn(2, 3, 24, 24), input_ids, input_ids)) == 1


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_without_the_libraries_the_error_says_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    said = rf"onnx needs {library}, which is not installed: pip install 'flava\[onnx\]'"
    with pytest.raises(ValueError, match=said):
        export(tiny_model(), tmp_path / "x", "onnx")
    assert not list(tmp_path.iterdir())

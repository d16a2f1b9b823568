"""`flava fill-mask` and `flava reconstruct` as a user calls them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flava.cli import main
from flava.inference.load import load
from tests.data.shard_files import picture
from tests.inference.models import save_flava


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_flava(tmp_path / "model")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    picture(1, 50, 40).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_fill_mask_prints_the_likeliest_tokens_of_each_mask(model, image, capsys):
    text = "a [MASK] b [MASK]"
    for more, images in (((), None), (("--image", image), [image])):
        assert run("fill-mask", "--model", model, "--text", text, "--top", 3, *more) == 0
        said = capsys.readouterr().out.splitlines()
        expected = []
        for number, candidates in enumerate(load(model).fill_mask([text], images, top=3)[0], 1):
            expected += [f"[MASK] {number}"]
            expected += [f"  {each.probability:.3f}  {each.token}" for each in candidates]
        assert said == expected
        assert len(said) == 8


def test_reconstruct_writes_the_three_pictures_side_by_side(model, image, tmp_path, capsys):
    output = tmp_path / "out.PNG"
    arguments = ("--model", model, "--image", image, "--output", output, "--seed", 3)
    assert run("reconstruct", *arguments) == 0
    (done,) = load(model).reconstruct([image], seed=3)
    said = capsys.readouterr().out
    assert f"{int(done.mask.sum())} of 16 patches hidden" in said
    sheet = np.asarray(Image.open(output))
    assert sheet.shape == (224, 3 * 224 + 16, 3)  # the codebook's 32 pixels, seven times as large
    for place, each in enumerate((done.original, done.masked, done.filled)):
        part = sheet[:, place * 232 : place * 232 + 224]
        assert (part[3::7, 3::7] == np.asarray(each)).all()
    # With a text another head fills it in.
    assert run("reconstruct", *arguments, "--text", "a b c") == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fill-mask", "--model", "MODEL", "--text", "a b"), "no [MASK] in 'a b': write it where"),
        (("fill-mask", "--model", "MODEL", "--text", "[MASK]", "--top", 0), "top is 0: use 1 to"),
        (("fill-mask", "--model", "MODEL", "--text", "[MASK]", "--image", "BAD"), "bad.png: it is"),
        (("fill-mask", "--model", "nowhere", "--text", "[MASK]"), "nowhere"),
        (("reconstruct", "--model", "MODEL", "--image", "BAD", "--output", "o.png"), "it is empty"),
        (
            ("reconstruct", "--model", "MODEL", "--image", "GOOD", "--output", "o.jpg"),
            "end in .png",
        ),
        (
            ("reconstruct", "--model", "MODEL", "--image", "GOOD", "--output", "no/o.png"),
            "no/o.png",
        ),
        (
            ("reconstruct", "--model", "MODEL", "--image", "none.png", "--output", "o.png"),
            "none.png",
        ),
    ],
)
def test_a_mistake_is_one_line_and_a_status(
    model, image, tmp_path, capsys, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"")
    names = {"MODEL": model, "BAD": tmp_path / "bad.png", "GOOD": image}
    assert run(*(names.get(str(each), each) for each in arguments)) == 1
    said = capsys.readouterr()
    assert expected in said.err
    assert said.err.startswith("flava: ")
    assert not said.out
    assert not list(tmp_path.glob("o.*"))

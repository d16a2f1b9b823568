"""`flava convert`, as it is typed."""

import pytest
import torch
from safetensors.torch import load_file

from flava.checkpoints.recognise import load_pretrained
from flava.cli import main
from flava.models import Flava
from tests.golden.twins import twins


@pytest.fixture
def source(tmp_path):
    twins("three-image-blocks").published.save_pretrained(tmp_path / "source")
    return tmp_path / "source"


def test_from_layout_to_layout_and_back_to_the_same_file(source, tmp_path, capsys):
    last = source
    for layout in ("flava", "torchmultimodal", "hf"):
        target = tmp_path / layout
        assert main(["convert", str(last), str(target), "--to", layout]) == 0
        assert f"written: {target}" in capsys.readouterr().out
        model = load_pretrained(target)
        assert isinstance(model, Flava)
        assert model.missing_parts == {"codebook.decoder"}
        last = target
    before, after = (load_file(path / "model.safetensors") for path in (source, last))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["./nowhere", "out", "--to", "hf"], "no checkpoint at nowhere"),
        (["{source}", "{source}", "--to", "hf"], "exists and is not empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(source, capsys, arguments, expected):
    given = [argument.format(source=source) for argument in arguments]
    assert main(["convert", *given]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error

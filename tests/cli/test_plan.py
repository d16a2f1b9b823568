import json

import pytest

from flava.recipes import RECIPES
from tests.commands import Command, in_this_process


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def test_a_plan_is_shown_and_written(flava: Command, tmp_path) -> None:
    path = tmp_path / "plan.json"
    ended = flava("plan", "mlm-tiny", "--gpus", 4, "--gpu", "a100", "--output", path)
    assert ended.status == 0, ended.error
    assert "mlm-tiny on 4 a100, ddp" in ended.out
    assert "312 TFLOP/s in bf16" in ended.out
    found = json.loads(path.read_text())
    update = found["updates"]["text"]
    assert update["samples"] == RECIPES["mlm-tiny"]().data.sources["text"].batch_size / 4
    assert update["received"].keys() == {"gradients"}
    seconds = max(update["computing"], update["exchanging"])
    assert found["days"] == pytest.approx(found["max_steps"] * seconds / 86_400)
    assert found["operations"] == update["operations"]


def test_what_does_not_fit_is_shown_and_refused(flava: Command) -> None:
    ended = flava("plan", "mlm", "--gpus", 1, "--gpu", "l40s", "--accumulate", 2)
    assert ended.status == 1
    assert "activations, GB" in ended.out
    assert "a step of text takes" in ended.error

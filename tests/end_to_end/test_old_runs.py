"""Runs that an older version wrote, and that this version must still read and go on with.

They are in `tests/fixtures/runs_2b9722e`; what they are is told in `tests/fixtures/README.md`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import flava
from flava.checkpoints.recognise import load_pretrained
from flava.evaluation.classification import load_classification
from flava.evaluation.record import load_evaluation
from flava.finetuning.finetune import FinetuneRun
from flava.training.run import Run
from flava.training.trainer_config import TrainerConfig, flatten, load_config
from tests.commands import Command, in_this_process
from tests.tiny_runs import rows

RUNS = Path(__file__).parents[1] / "fixtures" / "runs_2b9722e"
EXPECTED = json.loads((RUNS / "expected.json").read_text())
"""What the old code computed, in float32."""
PICTURES = [RUNS / name for name in EXPECTED["pictures"]]

RENAMED: dict[str, str] = {
    "probe_every": "validate_every",
    "probe_tolerance": "validation_tolerance",
    "held_out": "validation",
    "objective.workers": "objective.ranks",
}
"""Fields of `run.json` that have another name now: the old name and the new one, with dots."""
ADDED = {
    "flava": {"validator": "embedded"},
    "clip": {"validator": "embedded"},
    "dino": {"validator": "none"},
    "finetuned": {},
}
"""Fields that came since, with what the old version did without saying so."""

DINO = {
    "data.streams": "64",
    "data.workers": "0",
    "data.images.batch-size": "4",
    "data.crops.global-size": "16",
    "data.crops.local-size": "8",
    "data.crops.local-crops": "2",
    "schedule.warmup-steps": "2",
    "checkpoint-every": "4",
    "objective.epoch-steps": "2",
    "model.image.image-size": "16",
    "model.image.patch-size": "8",
    "model.image.width": "4",
    "model.image.depth": "1",
    "model.image.heads": "1",
    "model.image.mlp-width": "8",
    "model.head-width": "8",
    "model.bottleneck": "4",
    "model.outputs": "8",
}
"""The options that the DINO run was started with, and the default that is another one now."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


@pytest.mark.parametrize("name", ["flava", "clip", "dino", "finetuned"])
def test_every_field_of_the_configuration_is_read(name: str) -> None:
    """Each has its old value, under its new name where it has one."""
    path = RUNS / name / "run.json"
    kind: type[TrainerConfig] = FinetuneRun if name == "finetuned" else Run
    found = flatten(json.loads(TypeAdapter(kind).dump_json(load_config(path, kind))))
    old = flatten(json.loads(path.read_text()))
    assert found == {RENAMED.get(field, field): value for field, value in old.items()} | ADDED[name]


@pytest.mark.parametrize("name", ["flava", "clip"])
def test_a_loaded_model_encodes_as_it_did(name: str) -> None:
    """To 1e-5: the same sums in 32 bits, perhaps in another order."""
    model, expected = flava.load(RUNS / name), EXPECTED[name]
    images = model.encode_image(PICTURES).tolist()
    texts = model.encode_text(EXPECTED["texts"]).tolist()
    for found, wanted in ((images, expected["images"]), (texts, expected["texts"])):
        assert len(found) == len(wanted)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


def figures(row: dict[str, Any]) -> dict[str, float]:
    return {name: row[name] for name in EXPECTED["dino"][0]}


def test_a_run_goes_on_from_its_step_as_it_did(command: Command, tmp_path: Path) -> None:
    """The old code went on from the same checkpoint: losses and gradients must be the same.

    The distributions are sharp, so that small errors grow: hence 1e-3.
    """
    folder = shutil.copytree(RUNS / "dino", tmp_path / "dino", symlinks=True)
    before = rows(folder)
    assert [row["step"] for row in before] == [1, 2, 3, 4]
    options = [f"--{name}={value}" for name, value in DINO.items()]
    asked = ["--output-dir", folder, "--resume", "--max-steps", "6"]
    ended = command("train", "image-dino-tiny", *asked, *options)
    assert ended.status == 0, ended.error
    after = rows(folder)
    assert after[:4] == before
    assert [row["step"] for row in after] == [1, 2, 3, 4, 5, 6]
    for row, expected in zip(after, EXPECTED["dino"], strict=True):
        assert figures(row) == pytest.approx(expected, rel=1e-3)
    assert (folder / "checkpoints" / "last").resolve().name == "step-000006"
    assert load_config(folder / "run.json", Run).max_steps == 6
    load_pretrained(folder)


def test_a_fine_tuned_classifier_predicts_as_it_did(command: Command, tmp_path: Path) -> None:
    """The old code wrote six digits."""
    output = tmp_path / "predictions.jsonl"
    asked = ["--model", RUNS / "finetuned", "--data", RUNS / "pictures", "--output", output]
    ended = command("predict", *asked, "--precision", "fp32")
    assert ended.status == 0, ended.error
    found = {line["key"]: line for line in map(json.loads, output.open())}
    assert found.keys() == EXPECTED["finetuned"].keys()
    for key, probabilities in EXPECTED["finetuned"].items():
        assert found[key]["probabilities"] == pytest.approx(probabilities, abs=1e-5)
        assert found[key]["predicted"] == key.split("/")[0]


def test_what_was_found_is_read() -> None:
    evaluation = load_evaluation(RUNS / "flava")
    figure = evaluation.figure("zero_shot", "unseen_style", "accuracy")
    assert figure is not None
    assert 0 <= figure.value <= 1
    assert load_classification(RUNS / "finetuned").accuracy.value == 1.0

"""Fine-tuning that tasks share: resumed exactly, never done twice, all kinds of targets."""

import itertools
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flava.core.precision import Precision
from flava.core.randomness import subsample
from flava.data.labelled import LabelledRow
from flava.finetuning.probe import _load_classifier
from flava.models import Classifier
from flava.suite.fine_tuning import (
    FineTuningData,
    FineTuningRecipe,
    SuiteRun,
    _batches_of_step,
    fine_tune_task,
)
from flava.suite.task import Settings
from flava.training.launch import Interrupted
from flava.training.optimizer import Decay, OptimizerConfig, ScheduleConfig
from flava.training.trainer import Trainer
from flava.training.trainer_config import load_config
from tests.data.shard_files import encoded, picture
from tests.suite.language.test_measure import clip, flava
from tests.support import tiny_model

CLASSES = ("no", "yes")


def row(number: int, target: str, *, pairs: bool = False) -> LabelledRow:
    right = number % 2
    targets = {
        "label": CLASSES[right],
        "score": right / 1.0,
        "answers": {CLASSES[right]: 1.0, CLASSES[1 - right]: 0.3, "unheard of": 1.0},
    }
    return LabelledRow(
        shard="here",
        key=str(number),
        text=f"{'grand' if right else 'poor'} film {number}",
        image=encoded(picture(number, 40), "PNG") if pairs else None,
        **{target: targets[target]},
    )


def samples(target: str = "label", *, pairs: bool = False) -> FineTuningData:
    def score(values: torch.Tensor, rows) -> dict[str, float]:
        decided = values.argmax(dim=1) if values.shape[1] > 1 else (values[:, 0] > 0.5).long()
        right = [int(each.key) % 2 for each in rows]
        return {"right": (decided == torch.tensor(right)).float().mean().item()}

    return FineTuningData(
        task="toy",
        kind="pairs" if pairs else "text",
        classes=() if target == "score" else CLASSES,
        train=[row(i, target, pairs=pairs) for i in range(24)],
        validation=[row(i, target, pairs=pairs) for i in range(24, 36)],
        score=score,
    )


CONFIG = FineTuningRecipe(
    max_steps=24,
    batch_size=8,
    optimizer=OptimizerConfig(lr=4e-3, weight_decay=0.1, max_grad_norm=math.inf),
    schedule=ScheduleConfig(warmup_steps=2, decay=Decay.LINEAR),
    hidden_width=None,
    workers=0,
)


@pytest.fixture(autouse=True)
def four_validations(monkeypatch):
    """Few, so that the best checkpoint is one that has learnt for long."""
    monkeypatch.setattr("flava.suite.fine_tuning.VALIDATIONS", 4)


def settings(cache: Path, batch_size: int = 64) -> Settings:
    return Settings(data_root=cache, cache=cache, precision=Precision.FP32, batch_size=batch_size)


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in classifier.parameters()])


@pytest.mark.parametrize("make", [flava, clip], ids=["flava", "clip"])
@pytest.mark.parametrize("target", ["label", "answers", "score"])
def test_every_kind_of_target_is_learnt(tmp_path, make, target):
    found = samples(target)
    tuned = fine_tune_task(make(), found, CONFIG, settings(tmp_path), seed=0)
    outputs = tuned.outputs(found.validation, "validating")
    assert outputs.shape == (12, 1 if target == "score" else 2)
    assert found.score(outputs, found.validation)["right"] >= 0.9
    if target == "score":
        with pytest.raises(ValueError, match="predicts a score and no classes"):
            _load_classifier(tuned.run.output_dir)
    if target == "answers":  # the shares themselves are predicted, each class for itself
        right = torch.tensor([int(each.key) % 2 for each in found.validation])
        assert (outputs.sigmoid().gather(1, right[:, None]) > 0.6).float().mean() > 0.9


@pytest.mark.parametrize("make", [flava, clip], ids=["flava", "clip"])
def test_pairs_are_read_at_another_size_with_interpolated_positions(tmp_path, make):
    config = replace(CONFIG, max_steps=2, hidden_width=16, image_size=32)
    tuned = fine_tune_task(make(), samples(pairs=True), config, settings(tmp_path), seed=0)
    positions = dict(tuned.classifier.named_parameters())["features.image_encoder.positions"]
    assert positions.shape[1] == 1 + 4 * 4  # pretrained with 2 x 2
    assert tuned.outputs(samples(pairs=True).validation, "validating").shape == (12, 2)
    assert tuned.classifier.head[0].in_features == (64 if make is clip else 32)


def interrupting(step: int):
    look = Trainer.validate_and_save

    def looks(self, *arguments) -> None:
        look(self, *arguments)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)

    return looks


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    config = replace(CONFIG, max_steps=8)
    whole = fine_tune_task(flava(), samples(), config, settings(tmp_path / "whole", 4), seed=3)
    for stop in (3, 6):
        with monkeypatch.context() as patch:
            patch.setattr("flava.training.trainer.Trainer.validate_and_save", interrupting(stop))
            with pytest.raises(Interrupted, match=f"toy was stopped after {stop} of 8.*same comm"):
                fine_tune_task(flava(), samples(), config, settings(tmp_path / "parts", 4), seed=3)
        torch.rand(5)
    parts = fine_tune_task(flava(), samples(), config, settings(tmp_path / "parts", 4), seed=3)
    assert torch.equal(weights(whole.classifier), weights(parts.classifier))
    assert whole.step == parts.step


def test_what_is_finished_is_taken_and_only_for_the_very_same_run(tmp_path, monkeypatch):
    config = replace(CONFIG, max_steps=4)
    first = fine_tune_task(flava(), samples(), config, settings(tmp_path), seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", None)
        again = fine_tune_task(flava(), samples(), config, settings(tmp_path), seed=0)
        assert torch.equal(weights(first.classifier), weights(again.classifier))
        other = flava()
        with torch.no_grad():
            other.text_encoder.words.weight[7] += 1
        changed = replace(samples(), train=[*samples().train[1:], row(99, "label")])
        for model, data, seed in (
            (other, samples(), 0),
            (flava(), changed, 0),
            (flava(), samples(), 1),
        ):
            with pytest.raises(TypeError):  # it sets out to train
                fine_tune_task(model, data, config, settings(tmp_path), seed=seed)
    assert not list(first.run.output_dir.rglob("state"))
    assert load_config(first.run.output_dir / "run.json", SuiteRun).data == first.run.data


def test_a_batch_in_parts_gives_the_same_update(tmp_path, monkeypatch):
    monkeypatch.setattr("flava.models.classifier.DROPOUT", 0.0)  # whose draws depend on the parts
    looks = itertools.count()
    found = replace(samples("score"), score=lambda *_: {"look": float(next(looks))})  # the last
    config, model = replace(CONFIG, max_steps=3), flava()
    whole, parts = (
        fine_tune_task(model, found, config, settings(tmp_path, at_once), seed=0)
        for at_once in (8, 3)
    )
    assert [(t.run.batch_size, t.run.accumulate) for t in (whole, parts)] == [(8, 1), (2, 4)]
    assert whole.step == parts.step == 3
    ours, theirs = (dict(t.classifier.named_parameters())["head.1.weight"] for t in (whole, parts))
    # Adam moves every weight by about the rate, whatever the gradient's size.
    assert (ours - theirs).abs().max() < 0.05 * CONFIG.optimizer.lr


@pytest.mark.parametrize(
    ("batch_size", "at_once", "parts"), [(256, 64, 4), (256, 256, 1), (7, 3, 7), (30, 8, 5)]
)
def test_a_batch_falls_into_the_fewest_equal_parts_that_fit(batch_size, at_once, parts):
    assert _batches_of_step(batch_size, at_once) == parts


def test_samples_that_cannot_be_decoded_are_all_named(tmp_path):
    found = samples(pairs=True)
    broken = [replace(each, image=b"no image") for each in found.validation[:3]]
    found = replace(found, validation=[*broken, *found.validation[3:]])
    with pytest.raises(ValueError, match="toy: 3 samples cannot be decoded") as error:
        fine_tune_task(flava(), found, replace(CONFIG, max_steps=1), settings(tmp_path), seed=0)
    assert all(f"here: {each.key}: " in str(error.value) for each in broken)


def test_few_rows_are_drawn_by_the_seed_and_keep_their_order():
    rows = samples().train
    assert subsample(rows, None, 0, "rows") == rows
    drawn = subsample(rows, 5, 0, "rows")
    assert len(drawn) == 5
    assert [int(each.key) for each in drawn] == sorted(int(each.key) for each in drawn)
    assert drawn == subsample(rows, 5, 0, "rows") != subsample(rows, 5, 1, "rows")


def test_a_model_of_another_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"toy: the model cannot read its texts: .* 53 entries"):
        fine_tune_task(tiny_model(), samples(), CONFIG, settings(tmp_path), seed=0)

"""Fine-tuning on small real data: it learns, goes on exactly, and names what is wrong."""

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Kind
from flava.core.precision import Precision
from flava.evaluation.classification import load_classification
from flava.finetuning.finetune import FinetuneConfig, FinetuneRun, finetune
from flava.finetuning.probe import PredictConfig, _load_classifier, predict
from flava.models import Codebook
from flava.reports.classifier_report import write_classification_report
from flava.training.checkpoint import save_checkpoint
from flava.training.launch import Interrupted
from flava.training.optimizer import OptimizerConfig
from flava.training.state import _stored_tensors
from flava.training.trainer import Trainer
from flava.training.trainer_config import load_config
from tests.data.shard_files import encoded, picture
from tests.finetuning.labelled_files import SUBGROUPS, write_folder, write_model, write_table
from tests.tiny_runs import CODEBOOK, figures, one_line


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """A model, and the data in three forms."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)  # whatever was tested before
    write_model(folder)
    write_table(folder / "text.csv", "text", "label")
    write_table(folder / "pairs.csv", "image", "text", "label")
    return folder


def config(
    bench: Path, output_dir: Path, data: str | Path = "images", **changes: Any
) -> FinetuneConfig:
    found = FinetuneConfig(
        model=str(bench / "model"),
        data=bench / data,
        output_dir=output_dir,
        epochs=12.0,
        batch_size=16,
        optimizer=OptimizerConfig(lr=4e-3, weight_decay=1e-2),
        precision=Precision.FP32,
        workers=0,
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("data", "kind", "epochs"),
    [("images", "images", 40.0), ("text.csv", "text", 8.0), ("pairs.csv", "pairs", 8.0)],
)
def test_each_kind_is_learnt_far_beyond_the_majority(bench, tmp_path, data, kind: Kind, epochs):
    said = finetune(config(bench, tmp_path, data, epochs=epochs))
    write_classification_report(tmp_path)  # as the command does
    found = load_classification(tmp_path)
    assert found.kind == kind
    assert found.accuracy.n == sum(round(0.2 * n) for n in (51, 21, 30))
    assert found.accuracy.value >= found.accuracy.baselines["majority"] + 0.2
    updates = [row for row in figures(tmp_path) if "accuracy/classification" in row]
    assert sum(row["accuracy/classification"] for row in updates[-5:]) / 5 >= 0.8
    assert found.headline() in said
    for name in ("report.html", "predictions.jsonl", "run.json"):
        assert (tmp_path / name).is_file()
    run = load_config(tmp_path / "run.json", FinetuneRun)
    assert run.model.classes == SUBGROUPS
    assert run.model.hidden_width == (1536 if kind == "pairs" else None)
    assert run.train_samples + run.validation_samples == 102
    assert run.max_steps == -(-epochs * run.train_samples // 16)


def test_the_saved_classifier_predicts_what_was_reported(bench, tmp_path):
    finetune(config(bench, tmp_path / "run", epochs=4.0))
    reported = {
        line["key"]: line
        for line in map(json.loads, (tmp_path / "run" / "predictions.jsonl").open())
    }
    assert _load_classifier(tmp_path / "run").config.classes == SUBGROUPS
    asked = PredictConfig(
        model=str(tmp_path / "run"),
        data=bench / "images",
        output=tmp_path / "out.jsonl",
        precision=Precision.FP32,
    )
    said = predict(asked)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert len(lines) == 102
    assert "predicted 102" in said
    for name, count in Counter(line["predicted"] for line in lines).items():
        assert f"{name}: {count}" in said
    compared = [line for line in lines if line["key"] in reported]
    assert len(compared) == len(reported) == 20
    for line in compared:
        # Batches of other images: sums in another order.
        theirs = reported[line["key"]]["probabilities"]
        assert line["probabilities"] == pytest.approx(theirs, abs=1e-4)


def interrupting(step: int):
    """`Trainer.validate_and_save`, with Ctrl-C once it has looked at that step."""
    look = Trainer.validate_and_save

    def looks(self, *arguments) -> None:
        look(self, *arguments)
        if self.step == step:
            signal.raise_signal(signal.SIGINT)

    return looks


@pytest.mark.parametrize(("data", "workers"), [("pairs.csv", 0), ("images", 1)])
def test_interrupted_and_resumed_equals_uninterrupted(bench, tmp_path, monkeypatch, data, workers):
    through = config(bench, tmp_path / "through", data, epochs=2.0, workers=workers)
    finetune(through)
    parts = replace(through, output_dir=tmp_path / "parts")
    for stop in (3, 7):
        with monkeypatch.context() as patch:
            patch.setattr("flava.training.trainer.Trainer.validate_and_save", interrupting(stop))
            with pytest.raises(Interrupted, match=rf"stopped after {stop} of 11.*--resume"):
                finetune(parts)
        parts = replace(parts, resume=True)
        torch.rand(5)  # what is left in this process's generator must not matter
    finetune(parts)
    first, second = through.output_dir, parts.output_dir
    assert figures(first) == figures(second)
    for link in ("last", "best"):
        ours, theirs = (load_pretrained(each / "checkpoints" / link) for each in (first, second))
        state, other = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(state[name], other[name]) for name in state | other)
        kept = (_stored_tensors(each / "checkpoints" / link) for each in (first, second))
        random = [tensors["random.0.cpu"] for tensors in kept]
        assert torch.equal(*random)
    for name in ("predictions.jsonl", "classification.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_would_be_another_run_is_refused_on_resume(bench, tmp_path):
    asked = config(bench, tmp_path, epochs=1.0)
    finetune(asked)
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        finetune(asked)
    with pytest.raises(ValueError, match="is another one") as error:
        finetune(replace(asked, resume=True, batch_size=8, validation_fraction=0.5))
    for part in ("batch_size: 16 in the saved run, 8 now", "validation_fraction: 0.2", "digest: "):
        assert part in str(error.value)


def test_a_given_validation_set_is_used_whole(bench, tmp_path):
    asked = config(bench, tmp_path / "run", epochs=1.0, validation=write_folder(tmp_path / "other"))
    finetune(asked)
    found = load_classification(tmp_path / "run")
    assert found.accuracy.n == 102
    assert found.settings["train_samples"] == 102


def test_broken_images_are_left_out_and_reported(bench, tmp_path):
    folder = write_folder(tmp_path / "data")
    for n in range(9):
        (folder / "heart" / f"broken{n}.png").write_bytes(encoded(picture(n))[:60])
    finetune(config(bench, tmp_path / "run", epochs=2.0, data=folder))
    found = load_classification(tmp_path / "run")
    (validated,) = [note for note in found.notes if "Left out of the data" in note]
    assert "image cannot be decoded" in validated
    assert any("Left out of the training data" in note for note in found.notes)
    page = write_classification_report(tmp_path / "run").read_text()
    assert "image cannot be decoded" in page


# Bad input


def refused(asked: FinetuneConfig) -> str:
    with pytest.raises(ValueError, match="cannot start") as error:
        finetune(asked)
    assert not (asked.output_dir / "checkpoints").exists()
    return one_line(str(error.value))


def test_every_mistake_is_in_one_error(bench, tmp_path):
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\n")
    (tmp_path / "none.csv").write_text("words\nhello\n")
    said = refused(
        config(
            bench,
            tmp_path / "run",
            data=tmp_path / "one.csv",
            validation=tmp_path / "none.csv",
            model=str(tmp_path / "nowhere"),
            validation_fraction=2.0,
            epochs=0.0,
            batch_size=0,
            crop_scale=(1.0, 0.5),
            seed=-1,
            workers=-1,
            warmup_fraction=1.0,
            optimizer=OptimizerConfig(lr=-1.0),
        )
    )
    for part in (
        "model: no checkpoint at",
        "all 2 samples of",
        'are of one class, "x": two or more are needed',
        'none.csv has no column "image" or "text" and no column "label"',
        "validation_fraction is 2.0",
        "epochs is 0.0: it should be greater than 0",
        "batch_size is 0",
        "crop_scale is (1.0, 0.5)",
        "seed is -1",
        "workers is -1",
        "warmup_fraction is 1.0",
        "optimizer.lr is -1",
    ):
        assert part in said


def test_labels_that_were_never_trained_on_are_named(bench, tmp_path):
    (tmp_path / "v.csv").write_text("text,label\na,heart\nb,harts\nc,harts\nd,zoo\n")
    said = refused(config(bench, tmp_path / "run", "text.csv", validation=tmp_path / "v.csv"))
    assert "has labels that" in said
    assert '"harts" (2), "zoo" (1): correct them' in said


def test_validation_of_another_kind_and_a_sample_a_class_are_named(bench, tmp_path):
    said = refused(config(bench, tmp_path / "run", "images", validation=bench / "text.csv"))
    assert "holds text, and" in said
    (tmp_path / "few.csv").write_text("text,label\na,x\nb,y\n")
    said = refused(config(bench, tmp_path / "run", data=tmp_path / "few.csv"))
    assert "has one sample, so that none can be drawn" in said


def test_models_that_cannot_start_are_named(bench, tmp_path):
    codebook = save_checkpoint(tmp_path, "codebook", Codebook(CODEBOOK))
    said = refused(config(bench, tmp_path / "run", model=str(codebook)))
    assert "model: a Codebook does not read images" in said
    (tmp_path / "odd").mkdir()
    save_file({"weight": torch.zeros(1)}, tmp_path / "odd" / "model.safetensors")
    (tmp_path / "odd" / "config.json").write_text('{"model": {"layers": 3}}')
    said = refused(config(bench, tmp_path / "run", model=str(tmp_path / "odd")))
    assert f"the config.json of {tmp_path / 'odd'} does not describe a model" in said


def test_no_decodable_image_is_an_error(bench, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for n in range(4):
            (tmp_path / "data" / label / f"{n}.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"cannot be used.*image cannot be decoded"):
        finetune(config(bench, tmp_path / "run", data=tmp_path / "data"))


def test_predicting_needs_a_classifier_and_its_kind_of_data(bench, tmp_path):
    asked = PredictConfig(model=str(bench / "model"), data=bench / "images", output=tmp_path / "o")
    with pytest.raises(ValueError, match="holds a Flava: make a classifier with `flava finetune`"):
        predict(asked)
    finetune(config(bench, tmp_path / "run", epochs=0.5))
    with pytest.raises(ValueError, match=r"classifies images, and .* holds text"):
        predict(replace(asked, model=str(tmp_path / "run"), data=bench / "text.csv"))

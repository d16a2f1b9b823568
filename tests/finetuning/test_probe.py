import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import TextInputs
from flava.core.precision import Precision
from flava.data.labelled import read_rows, split
from flava.data.tokenizers import Tokenizer
from flava.evaluation.classification import load_classification
from flava.evaluation.linear_probe import try_strengths
from flava.finetuning.probe import ProbeConfig, _load_classifier, probe
from flava.models import Flava
from tests.finetuning.labelled_files import write_model, write_table


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    write_model(folder)
    write_table(folder / "text.csv", "text", "label")
    lines = (folder / "text.csv").read_text().splitlines()
    two = [line for line in lines if not line.endswith("heart")]
    (folder / "two.csv").write_text("\n".join(two) + "\n")
    return folder


@pytest.mark.parametrize("data", ["text.csv", "two.csv"])
def test_the_probe_is_scikit_learns_on_features_computed_one_by_one(bench, tmp_path, data):
    asked = ProbeConfig(
        model=str(bench / "model"),
        data=bench / data,
        output_dir=tmp_path,
        precision=Precision.FP32,
    )
    said = probe(asked)
    found = load_classification(tmp_path)
    model, tokenizer = load_pretrained(bench / "model"), Tokenizer()
    assert isinstance(model, Flava)

    def features(texts: list[str]) -> np.ndarray:
        rows = []
        for text in texts:
            ids = torch.tensor([tokenizer.encode(text, 24)])
            with torch.inference_mode():
                states = model.text_encoder(ids, torch.ones_like(ids, dtype=torch.bool))
                rows.append(model.text_encoder.norm(states)[0, 0].numpy())
        return np.stack(rows)

    train, validation = split(read_rows(bench / data), 0.2, seed=0)
    x, y = (features([row.text or "" for row in part.rows]) for part in (train, validation))
    scale = x.std(axis=0).mean()
    fitted = LogisticRegression(C=found.settings["strength"], max_iter=1000)
    fitted.fit((x - x.mean(axis=0)) / scale, train.labels)
    scaled = (y - x.mean(axis=0)) / scale
    expected = fitted.predict_proba(scaled)
    assert found.accuracy.value == np.mean(fitted.predict(scaled) == validation.labels)
    assert found.accuracy.value > found.accuracy.baselines["majority"] + 0.1
    assert found.headline() in said
    ids, attention_mask = tokenizer.batch([row.text or "" for row in validation.rows], 24)
    classifier = _load_classifier(tmp_path)
    assert classifier.config.classes == tuple(fitted.classes_)
    with torch.inference_mode():
        probabilities = (
            classifier(TextInputs(input_ids=ids, attention_mask=attention_mask))
            .softmax(dim=1)
            .numpy()
        )
    # The optimiser stops within 1e-4, from features whose last bits differ.
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_the_strength_is_chosen_without_the_validation_samples(bench, tmp_path, monkeypatch):
    seen = []

    def spied(train, validation):
        seen.append((train, validation))
        return try_strengths(train, validation)

    monkeypatch.setattr("flava.finetuning.probe.try_strengths", spied)
    asked = ProbeConfig(model=str(bench / "model"), data=bench / "text.csv", output_dir=tmp_path)
    probe(asked)
    found = load_classification(tmp_path)
    ((train, choosing),) = seen
    assert len(train.labels) + len(choosing.labels) == found.settings["train_samples"]
    trials = found.settings["trials"]
    best = max(accuracy for _, accuracy in trials)
    assert next(c for c, accuracy in trials if accuracy == best) == found.settings["strength"]


def test_a_probe_does_not_overwrite_a_run(bench, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    asked = ProbeConfig(model=str(bench / "model"), data=bench / "text.csv", output_dir=tmp_path)
    with pytest.raises(ValueError, match="holds a run: choose another with --output-dir"):
        probe(asked)

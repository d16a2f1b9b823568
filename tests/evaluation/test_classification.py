import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_fscore_support

from flava.data.labelled import LabelledRow
from flava.evaluation.classification import (
    Predictions,
    _wilson_interval,
    evaluate_predictions,
    load_classification,
    save_classification,
    with_examples,
)
from flava.reports.classifier_report import write_classification_report
from tests.data.shard_files import encoded, picture
from tests.reports.test_run_report import HOSTILE, Page

CLASSES = ("a", "b", "c", HOSTILE)


def predictions(n: int = 60, classes: tuple[str, ...] = CLASSES) -> Predictions:
    """Labels of the first three classes, of which two thirds are predicted."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, n)
    logits = torch.tensor(draw.normal(size=(n, len(classes))))
    logits[torch.arange(n), torch.tensor(labels)] += 1.5
    image = encoded(picture(0, 400, 300))
    rows = tuple(
        LabelledRow(
            shard="s", key=f"k{i}", label=classes[label], image=image, text=f"{HOSTILE} {i}"
        )
        for i, label in enumerate(labels)
    )
    return Predictions(rows, classes, logits.softmax(dim=1).float())


def test_figures_are_scikit_learns():
    given_ = predictions()
    found = evaluate_predictions(given_, method="probe", kind="pairs", train_labels=["a", "a", "b"])
    truth, answer = given_.labels.numpy(), given_.predicted.numpy()
    accuracy, recall = found.figures
    assert accuracy.value == pytest.approx(accuracy_score(truth, answer))
    assert accuracy.baselines == {"majority": np.bincount(truth).max() / 60}
    assert recall.value == pytest.approx(balanced_accuracy_score(truth, answer))
    assert recall.baselines == {"chance": 1 / 3}
    expected: Any = precision_recall_fscore_support(
        truth,
        answer,
        labels=range(4),
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    for i, each in enumerate(found.classes):
        measured = (each.precision, each.recall, each.f1, each.examples)
        assert measured == pytest.approx(tuple(column[i] for column in expected))
    assert [each.trained_on for each in found.classes] == [2, 1, 0, 0]
    assert f"accuracy {accuracy.value:.3f} (95 % interval" in found.headline()
    assert f"majority {accuracy.baselines['majority']:.3f}, n = 60)" in found.headline()


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(case):
    right, n = case
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert _wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_examples_are_the_surest_mistakes_and_right_ones():
    given_ = predictions()
    found = evaluate_predictions(given_, method="probe", kind="pairs", train_labels=[])
    shown, pictures = with_examples(found, given_, seed=0)
    surety = given_.probabilities.amax(dim=1)
    wrong = given_.predicted != given_.labels
    worst = {
        f"k{i}" for i in range(60) if wrong[i] and surety[i] >= surety[wrong].sort().values[-12]
    }
    assert {each.key for each in shown.wrong} == worst
    assert [e.probability for e in shown.wrong] == sorted(e.probability for e in shown.wrong)[::-1]
    assert all(each.label == each.predicted for each in shown.right)
    assert len(pictures) == len(shown.wrong) + len(shown.right)
    assert {picture.size for picture in pictures.values()} == {(192, 144)}


def test_the_page_shows_all_and_stands_alone(tmp_path):
    given_ = predictions()
    found = evaluate_predictions(given_, method="probe", kind="pairs", train_labels=["a"] * 5)
    shown, pictures = with_examples(found, given_, seed=0)
    save_classification(shown, pictures, given_, tmp_path)
    assert load_classification(tmp_path) == shown
    html = write_classification_report(tmp_path).read_text()
    page = Page(html)
    assert page.open == []
    assert {name for name, _ in page.tags}.isdisjoint({"script", "iframe"})
    sources = [attributes["src"] or "" for name, attributes in page.tags if name == "img"]
    assert len(sources) == 24
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert f"{found.accuracy.value:.3f}" in page.text
    assert f"majority {found.accuracy.baselines['majority']:.3f}" in " ".join(page.text.split())
    assert HOSTILE in page.text
    assert "http" not in html.replace("http://evil.example", "").replace("http://www.w3.org", "")


def test_predictions_are_lines_with_every_probability(tmp_path):
    given_ = predictions(5)
    found = evaluate_predictions(given_, method="probe", kind="pairs", train_labels=[])
    save_classification(found, {}, given_, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        assert (line["key"], line["label"]) == (f"k{i}", given_.rows[i].label)
        assert list(line["probabilities"]) == list(CLASSES)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)
    assert len(lines) == 5


def test_many_classes_have_no_matrix_but_their_confusions(tmp_path):
    given_ = predictions(60, tuple(f"class {i}" for i in range(80)))
    found = evaluate_predictions(given_, method="finetune", kind="pairs", train_labels=[])
    save_classification(found, {}, given_, tmp_path)
    page = Page(write_classification_report(tmp_path).read_text())
    assert page.count("table", "confusion") == 0
    assert page.count("table", "narrow") == 1


def test_no_prediction_and_a_damaged_file_are_errors(tmp_path):
    nothing = Predictions((), CLASSES, torch.zeros(0, 4))
    with pytest.raises(ValueError, match="no validation sample can be used"):
        evaluate_predictions(nothing, method="probe", kind="text", train_labels=[])
    (tmp_path / "classification.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"classification\.json is damaged:\s+method: Field required"
    ):
        write_classification_report(tmp_path)

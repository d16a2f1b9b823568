"""SNLI-VE and Hateful Memes: their files, and that both kinds of model learn from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from flava.suite.multimodal import hateful_memes, snli_ve
from flava.suite.multimodal.labelled_pairs import PairRecipe, few_of_each, read_pairs
from tests.suite.multimodal.data import (
    save_image,
    settings,
    tiny_clip,
    tiny_flava,
    write_json_lines,
)

QUICK = PairRecipe(max_steps=60, warmup_steps=6, lr=3e-3, image_size=224, train_samples=24)

SENTENCES = {"entailment": "It is red.", "neutral": "It rains.", "contradiction": "It is blue."}


def snli_ve_file(root: Path, split: str, count: int) -> list[dict[str, Any]]:
    """The file of a split, with some of the official fields, and Flickr30K's images beside it."""
    lines = []
    for i in range(count):
        label = snli_ve.CLASSES[i % 3]
        name = f"{split}{i // 3}"
        lines.append(
            {
                "Flickr30K_ID": name,
                "annotator_labels": [label],
                "captionID": f"{name}.jpg#2",
                "gold_label": label,
                "pairID": f"{name}.jpg#2r1{label[0]}",
                "sentence1": "A field.",
                "sentence2": SENTENCES[label],
            }
        )
        save_image(root / "flickr30k" / "flickr30k-images" / f"{name}.jpg", "red", mark=i)
    write_json_lines(root / "snli_ve" / f"snli_ve_{split}.jsonl", lines)
    return lines


def hateful_memes_file(root: Path, file: str, first: int, count: int) -> list[dict[str, Any]]:
    """The file of a split: what is red is hateful."""
    lines = []
    for i in range(first, first + count):
        lines.append({"id": i, "img": f"img/{i:05d}.png", "label": i % 2, "text": "look at this"})
        save_image(root / "hateful_memes" / "img" / f"{i:05d}.png", ["green", "red"][i % 2])
    write_json_lines(root / "hateful_memes" / file, lines)
    return lines


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_entailment_is_learned(make, tmp_path: Path) -> None:
    for split, count in (("train", 24), ("dev", 9), ("test", 12)):
        snli_ve_file(tmp_path, split, count)
    model, how = make(std=None), settings(tmp_path, batch_size=24)
    (figure,) = snli_ve._measure(model, how, recipe=QUICK)
    assert (figure.name, figure.n) == ("snli_ve/test/accuracy", 12)
    assert figure.baselines == {"majority": pytest.approx(1 / 3)}
    assert figure.value > 0.7


def test_memes_are_learned_from_the_text_that_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    for file, first, count in (
        ("train.jsonl", 0, 16),
        ("dev_seen.jsonl", 16, 6),
        ("test_seen.jsonl", 22, 8),
    ):
        hateful_memes_file(tmp_path, file, first, count)
    monkeypatch.setattr(hateful_memes, "_texts_in", lambda images, _: ["read off"] * len(images))
    model, how = tiny_flava(std=None), settings(tmp_path, batch_size=16)
    area, accuracy = hateful_memes._measure(model, how, recipe=QUICK)
    assert (area.name, accuracy.name) == (
        "hateful_memes/test_seen/roc_auc",
        "hateful_memes/test_seen/accuracy",
    )
    assert area.baselines == {"chance": 0.5}
    assert accuracy.baselines == {"majority": 0.5}
    assert area.value > 0.9
    assert area.n == accuracy.n == 8
    monkeypatch.setattr(hateful_memes, "_texts_in", None)  # which is then not called
    own = hateful_memes._measure(model, how, own_text=True, recipe=replace(QUICK, max_steps=2))
    assert own[0].name == "hateful_memes_own_text/test_seen/roc_auc"


def test_the_unseen_splits_are_taken_if_both_are_there(tmp_path: Path) -> None:
    names = [f"{part}_{phase}" for phase in ("seen", "unseen") for part in ("dev", "test")]
    for number, name in enumerate(("train", *names)):
        (tmp_path / f"{name}.jsonl").touch()
        phase = "seen" if number in (2, 3) else "unseen"
        found = [path.stem for path in hateful_memes._files_of(tmp_path)]
        assert found == ["train", f"dev_{phase}", f"test_{phase}"]


def test_the_area_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    odds = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    found = hateful_memes._roc_auc(torch.tensor(logits, dtype=torch.float), torch.tensor(truth))
    assert found == pytest.approx(roc_auc_score(truth, odds))


def test_rows_of_snli_ve(tmp_path: Path) -> None:
    snli_ve_file(tmp_path, "dev", 3)
    images = tmp_path / "flickr30k" / "flickr30k-images"
    rows = read_pairs(tmp_path / "snli_ve/snli_ve_dev.jsonl", images, snli_ve.FIELDS)
    assert [row.label for row in rows] == ["entailment", "neutral", "contradiction"]
    assert [row.text for row in rows] == list(SENTENCES.values())
    assert {row.image for row in rows} == {images / "dev0.jpg"}
    assert rows[0].key == "dev0.jpg#2r1e"


def test_rows_of_snli_ve_as_first_released(tmp_path: Path) -> None:
    """Its generator called the id Flikr30kID, with the ending, until April 2020."""
    lines = snli_ve_file(tmp_path, "dev", 3)
    images = tmp_path / "flickr30k" / "flickr30k-images"
    path = tmp_path / "snli_ve/snli_ve_dev.jsonl"
    now = read_pairs(path, images, snli_ve.FIELDS)
    for line in lines:
        line["Flikr30kID"] = f"{line.pop('Flickr30K_ID')}.jpg"
    write_json_lines(path, lines)
    assert read_pairs(path, images, snli_ve.FIELDS) == now
    del lines[1]["Flikr30kID"]
    write_json_lines(path, lines)
    with pytest.raises(ValueError, match=r"Flickr30K_ID or Flikr30kID.*: snli_ve_dev.jsonl:2\n"):
        read_pairs(path, images, snli_ve.FIELDS)


def test_all_mistakes_are_one_error(tmp_path: Path) -> None:
    lines = hateful_memes_file(tmp_path, "train.jsonl", 0, 12)
    for line in lines:
        line["label"] = 0
    lines[1]["label"] = 2
    lines[2]["id"] = 0
    lines[3]["img"] = "img/99999.png"
    del lines[4]["text"]
    lines[5]["label"] = None
    write_json_lines(tmp_path / "hateful_memes" / "train.jsonl", lines)
    with pytest.raises(ValueError) as caught:
        hateful_memes.HATEFUL_MEMES.measure(tiny_flava(), settings(tmp_path))
    said = str(caught.value)
    for line in (
        "lines without id, img, text, label: train.jsonl:5, train.jsonl:6\n",
        "labels other than 0, 1: 2 of 1\n",
        "classes without a pair: hateful\n",
        "ids that occur twice: 0\n",
        "99999.png\n",
        # The mistakes of all three files are in it.
        "dev_unseen.jsonl is missing",
        "test_unseen.jsonl is missing",
    ):
        assert line in said


def test_lines_that_are_no_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": 1}\nnonsense\n[2]\n')
    with pytest.raises(ValueError, match=r"lines.jsonl:2 .*lines.jsonl:3"):
        read_pairs(path, tmp_path, hateful_memes.FIELDS)
    path.write_text("")
    with pytest.raises(ValueError, match="table is empty"):
        read_pairs(path, tmp_path, hateful_memes.FIELDS)


def test_few_have_their_share_of_each_class(tmp_path: Path) -> None:
    hateful_memes_file(tmp_path, "train.jsonl", 0, 40)
    folder = tmp_path / "hateful_memes"
    rows = read_pairs(folder / "train.jsonl", folder, hateful_memes.FIELDS)
    few = few_of_each(rows, 10, seed=3)
    assert [row.label for row in few].count("hateful") == 5
    assert len(few) == 10
    assert few == few_of_each(rows, 10, seed=3)
    assert few != few_of_each(rows, 10, seed=4)
    assert few_of_each(rows, None, seed=3) == few_of_each(rows, 99, seed=3) == rows


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "snli_ve"
    assert [Path(each).name for each in snli_ve.SNLI_VE.missing(folder)] == [
        "snli_ve_train.jsonl is missing",
        "snli_ve_dev.jsonl is missing",
        "snli_ve_test.jsonl is missing",
        "flickr30k-images is missing",
    ]
    folder = tmp_path / "hateful_memes"
    assert [Path(each).name for each in hateful_memes.HATEFUL_MEMES.missing(folder)] == [
        "train.jsonl is missing",
        "dev_unseen.jsonl is missing",
        "test_unseen.jsonl is missing",
        "img is missing",
    ]
    with pytest.raises(FileNotFoundError, match=r"train.jsonl is missing"):
        hateful_memes.HATEFUL_MEMES.measure(tiny_flava(), settings(tmp_path))

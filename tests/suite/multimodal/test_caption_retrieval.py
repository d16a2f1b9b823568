import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.data.transforms import normalise
from flava.data.views import clip_view, encoder_view
from flava.models import Clip, Flava
from flava.suite.multimodal import MULTIMODAL, VARIANTS
from flava.suite.multimodal.caption_retrieval import COCO, FLICKR30K, _measure, _task_of
from tests.suite.multimodal.data import (
    flickr30k,
    save_image,
    settings,
    tiny_clip,
    tiny_flava,
    write_json,
)

CAPTIONS = [
    ["A red field .", "red", "something red with a bar"],
    ["A green field .", "green", "grass", "all green here"],
    ["A blue field .", "blue"],
    ["A yellow field .", "yellow", "sand"],
    ["Another red field .", "red again"],
    ["A dark green thing .", "leaf"],
]
OWNERS = [i for i, each in enumerate(CAPTIONS) for _ in each]
TEXTS = [text for each in CAPTIONS for text in each]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    flickr30k(tmp_path, CAPTIONS)
    return tmp_path


@torch.no_grad()
def similarities(model: Flava | Clip, root: Path) -> np.ndarray:
    """One image and one text at a time, with `flava.load`'s view of an image."""
    view = (clip_view if isinstance(model, Clip) else encoder_view)(24)
    tokenizer = ClipTokenizer() if isinstance(model, Clip) else Tokenizer()
    files = (root / f"flickr30k/flickr30k-images/{i}.jpg" for i in range(len(CAPTIONS)))
    levels = (view.transform(Image.open(file))[None].copy() for file in files)
    images = [model.encode_image(normalise(each)) for each in levels]
    texts = [model.encode_text(*tokenizer.batch([text], 16)) for text in TEXTS]
    return (torch.cat(images) @ torch.cat(texts).T).numpy()


def by_sorting(scores: np.ndarray, right: list[set[int]], k: int) -> float:
    """R@k by a full sort of every row."""
    hits = [
        bool(set(np.argsort(-row)[:k].tolist()) & r) for row, r in zip(scores, right, strict=True)
    ]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_recall_equals_brute_force_both_ways(make, root: Path) -> None:
    model = make()
    figures = _measure(model, settings(root), benchmark=FLICKR30K)
    scores = similarities(model, root)
    own = [{j for j, owner in enumerate(OWNERS) if owner == i} for i in range(len(CAPTIONS))]
    for k in (1, 5, 10):
        found = {f.metric: f for f in figures}
        text, image = found[f"text_retrieval_r@{k}"], found[f"image_retrieval_r@{k}"]
        assert text.value == by_sorting(scores, own, k)
        assert image.value == by_sorting(scores.T, [{owner} for owner in OWNERS], k)
        assert (text.n, image.n) == (6, 16)
        assert (text.task, text.split) == ("flickr30k", "test")
        assert image.baselines["chance"] == pytest.approx(min(1, k / 6))


@torch.no_grad()
def test_ranking_again_follows_the_matching_head_among_the_first_k(root: Path) -> None:
    model, k = tiny_flava(), 3
    scores = similarities(model, root)
    matching = np.zeros_like(scores)
    for i in range(len(CAPTIONS)):
        image = Image.open(root / f"flickr30k/flickr30k-images/{i}.jpg")
        states = model.image_encoder(normalise(encoder_view(24).transform(image)[None].copy()))
        for j, text in enumerate(TEXTS):
            ids, attention_mask = Tokenizer().batch([text], 16)
            joint = model.multimodal(
                states, model.text_encoder(ids, attention_mask), attention_mask
            )
            logits = model.itm_head(joint)[0]
            matching[i, j] = logits[1] - logits[0]

    def again(scores: np.ndarray, matching: np.ndarray) -> np.ndarray:
        """Scores in which the first k stand before all others, in the head's order."""
        new = scores.copy()
        for row, values in zip(new, matching, strict=True):
            first = np.argsort(-row)[:k]
            row[first] = 1e6 + values[first]
        return new

    own = [{j for j, owner in enumerate(OWNERS) if owner == i} for i in range(len(CAPTIONS))]
    benchmark = replace(FLICKR30K, rerank=k)
    found = {
        f.metric: f.value
        for f in _measure(model, settings(root), benchmark=benchmark, reranked=True)
    }
    plain = {f.metric: f.value for f in _measure(model, settings(root), benchmark=benchmark)}
    for at in (1, 5, 10):
        assert found[f"text_retrieval_r@{at}"] == by_sorting(again(scores, matching), own, at)
        assert found[f"image_retrieval_r@{at}"] == by_sorting(
            again(scores.T, matching.T), [{owner} for owner in OWNERS], at
        )
    assert found != plain


def test_only_a_model_with_a_matching_head_can_rank_again(root: Path) -> None:
    with pytest.raises(ValueError, match="CLIP has no matching head"):
        _measure(tiny_clip(), settings(root), benchmark=FLICKR30K, reranked=True)
    model = tiny_flava()
    model.missing_parts = frozenset({"itm_head"})
    with pytest.raises(ValueError, match="itm_head"):
        _measure(model, settings(root), benchmark=FLICKR30K, reranked=True)
    with pytest.raises(ValueError, match="a Linear has no contrastive space"):
        _measure(torch.nn.Linear(1, 1), settings(root), benchmark=FLICKR30K)


def test_few_images_are_drawn_with_all_their_captions(root: Path) -> None:
    figures = _measure(tiny_flava(), settings(root, few=2), benchmark=FLICKR30K)
    images, texts = (figures[i].n for i in (0, 3))
    assert images == 2
    assert 4 <= texts <= 7
    assert figures == _measure(tiny_flava(), settings(root, few=2), benchmark=FLICKR30K)


def test_cocos_images_are_found_by_their_filepath(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    names = [f"COCO_val2014_{i:012d}.jpg" for i in (391895, 60623)]
    write_json(
        folder / "dataset_coco.json",
        {
            "images": [
                {
                    "filepath": "val2014",
                    "filename": name,
                    "sentids": [0, 1],
                    "imgid": i,
                    "split": "test",
                    "sentences": [{"raw": "a field"}, {"raw": f"number {i}"}],
                    "cocoid": i,
                }
                for i, name in enumerate(names)
            ],
            "dataset": "coco",
        },
    )
    task = _task_of(COCO, reranked=False)
    assert task.missing(folder) == [f"{folder / 'val2014'} is missing"]
    with pytest.raises(ValueError, match=r"missing below .*coco: COCO_val2014_000000391895.jpg"):
        task.measure(tiny_flava(), settings(tmp_path))
    for name in names:
        save_image(folder / "val2014" / name, "red")
    assert task.missing(folder) == []
    figures = task.measure(tiny_flava(), settings(tmp_path))
    assert [f.n for f in figures] == [2] * 3 + [4] * 3
    # Both images are the same: a wrong one that is as similar counts as better.
    assert figures[3].value == 0


def test_all_mistakes_of_a_file_are_one_error(root: Path) -> None:
    path = root / "flickr30k" / "dataset_flickr30k.json"
    whole = json.loads(path.read_text())
    images = whole["images"]
    images.append(images[1])
    images[2]["sentences"] = []
    for i in range(30):
        images.append({**images[3], "filename": f"lost-{i}.jpg"})
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError) as caught:
        _measure(tiny_flava(), settings(root), benchmark=FLICKR30K)
    said = str(caught.value)
    assert "listed twice: 0.jpg\n" in said
    assert "without a caption, or with an empty one: 1.jpg\n" in said
    assert "lost-9.jpg and 20 more" in said
    assert "lost-10.jpg" not in said
    assert len(said.splitlines()) < 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[1]", 'no list "images"'),
        ('{"images": [{"filename": "a.jpg", "split": "test"}, 3]}', "by place: 0, 1"),
        ('{"images": []}', "split 'test': none"),
    ],
)
def test_a_file_of_another_form_is_refused(root: Path, content: str, said: str) -> None:
    (root / "flickr30k" / "dataset_flickr30k.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        _measure(tiny_flava(), settings(root), benchmark=FLICKR30K)


def test_images_that_cannot_be_decoded_are_named(root: Path) -> None:
    (root / "flickr30k/flickr30k-images/2.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images that cannot be read: 2.jpg \(image cannot"):
        _measure(tiny_flava(), settings(root), benchmark=FLICKR30K)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    (retrieval,) = [task for task in MULTIMODAL if task.name == "flickr30k"]
    folder = tmp_path / "flickr30k"
    assert retrieval.missing(folder) == [
        f"{folder / 'dataset_flickr30k.json'} is missing",
        f"{folder / 'flickr30k-images'} is missing",
    ]
    with pytest.raises(FileNotFoundError, match=r"dataset_flickr30k.json is missing"):
        retrieval.measure(tiny_flava(), settings(tmp_path))


def test_the_tasks_fill_the_eleven_rows_of_the_table() -> None:
    rows = [row for task in MULTIMODAL for row, _ in task.rows]
    assert rows == [
        "VQAv2",
        "SNLI-VE",
        "Hateful Memes",
        *(f"{d} {w} R@{k}" for d in ("Flickr30K", "COCO") for w in ("TR", "IR") for k in (1, 5)),
    ]
    assert not any(task.rows for task in VARIANTS)
    assert len({task.name for task in (*MULTIMODAL, *VARIANTS)}) == len(MULTIMODAL) + len(VARIANTS)

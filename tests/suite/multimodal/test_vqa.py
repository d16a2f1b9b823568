import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from flava.suite.multimodal.labelled_pairs import PairRecipe, _proportional_size, recipe_for
from flava.suite.multimodal.vqa import RECIPE, RESULTS, TRAIN, VQAV2, _measure, _read_questions
from flava.suite.multimodal.vqa_answers import answer_scorer
from tests.suite.multimodal.data import COLOURS, settings, ten, tiny_clip, tiny_flava, vqa

QUESTION = "What color is this?"

# Other images than in pretraining, but fewer patches than 480 pixels would be.
QUICK = PairRecipe(max_steps=60, warmup_steps=6, lr=3e-3, image_size=336, train_samples=40)


def about_colours(images: range) -> list[tuple[int, int, str, list[str]]]:
    """(id, image, question, answers): one in four has two who see another colour."""
    return [
        (
            image * 1000,
            image,
            QUESTION,
            ten(COLOURS[image % 4], "orange" if image % 16 < 4 else ""),
        )
        for image in images
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    vqa(tmp_path, "train2014", about_colours(range(1, 41)), answered=True)
    vqa(tmp_path, "val2014", about_colours(range(41, 53)), answered=True)
    vqa(tmp_path, "test-dev2015", about_colours(range(53, 60)), answered=False)
    return tmp_path


@pytest.mark.parametrize("make", [tiny_flava, tiny_clip])
def test_colours_are_learned_and_answers_written_for_the_server(make, root: Path) -> None:
    (figure,) = _measure(make(std=None), settings(root, batch_size=40), recipe=QUICK)
    assert figure.name == "vqav2/validation/vqa_accuracy"
    assert figure.n == 12
    # Of twelve questions three are about each colour.
    assert figure.baselines == {"majority": pytest.approx(0.25)}
    assert figure.value > 0.7
    (tuned,) = (root / "cache").rglob("run.json")
    assert json.loads(tuned.read_text())["optimizer"]["max_grad_norm"] == math.inf
    (path,) = (root / "cache").rglob(RESULTS)
    results = json.loads(path.read_text())
    assert [each["question_id"] for each in results] == [1000 * i for i in range(53, 60)]
    assert all(each.keys() == {"question_id", "answer"} for each in results)
    rightly = [each["answer"] == COLOURS[each["question_id"] // 1000 % 4] for each in results]
    assert sum(rightly) / len(rightly) > 0.5


def test_images_of_test_dev_are_missed_before_anything_is_trained(root: Path) -> None:
    (root / "vqav2" / "test2015" / "COCO_test2015_000000000055.jpg").unlink()
    with pytest.raises(ValueError, match=r"test-dev2015_questions.json .*\n.*000000000055.jpg"):
        _measure(tiny_flava(), settings(root), recipe=QUICK)
    assert not (root / "cache").exists()


def test_a_few_questions_are_not_answered_for_the_server(root: Path) -> None:
    (figure,) = _measure(tiny_flava(), settings(root, few=4), recipe=replace(QUICK, max_steps=1))
    assert figure.n == 4
    assert not list((root / "cache").rglob(RESULTS))


def test_questions_come_with_images_and_answers(root: Path) -> None:
    first, *others = _read_questions(root / "vqav2", TRAIN, answered=True)
    assert (first.id, first.text, first.commonest) == (1000, QUESTION, "green")
    assert first.image.name == "COCO_train2014_000000000001.jpg"
    assert first.human_answers == ("green",) * 8 + ("orange",) * 2
    assert answer_scorer(first.human_answers)("orange") == pytest.approx(0.6)
    assert len(others) == 39


def test_images_may_be_cocos_in_the_folder_beside(root: Path) -> None:
    (root / "coco").mkdir()
    (root / "vqav2" / "train2014").rename(root / "coco" / "train2014")
    assert VQAV2.missing(root / "vqav2") == []
    first = _read_questions(root / "vqav2", TRAIN, answered=True)[0]
    assert first.image == root / "coco" / "train2014" / "COCO_train2014_000000000001.jpg"


def test_the_papers_protocol() -> None:
    config = recipe_for(RECIPE, tiny_flava(), 443_757, few=False)
    assert (config.max_steps, config.batch_size, config.schedule.warmup_steps) == (
        44_000,
        256,
        2000,
    )
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (1e-4, 1e-2)
    assert config.optimizer.max_grad_norm == math.inf
    assert config.hidden_width == 1536
    # The base model's 480 pixels; a small model's in proportion, in whole patches.
    assert _proportional_size(480, 224, 16) == 480
    assert _proportional_size(224, 224, 16) == 224
    assert config.image_size == _proportional_size(480, 24, 6) == 54
    # Few samples are seen as often as all would be: 25.4 times.
    few = recipe_for(RECIPE, tiny_flava(), 1000, few=True)
    seen = 44_000 * 256 / 443_757
    assert few.max_steps * 256 == pytest.approx(seen * 1000, rel=0.01)
    assert few.schedule.warmup_steps / few.max_steps == pytest.approx(
        1 / 22, abs=0.5 / few.max_steps
    )


def edit(path: Path, name: str, change) -> None:
    whole = json.loads(path.read_text())
    change(whole[name])
    path.write_text(json.dumps(whole))


def test_all_mistakes_are_one_error(root: Path) -> None:
    folder = root / "vqav2"
    (folder / "train2014" / "COCO_train2014_000000000003.jpg").unlink()
    questions = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
    edit(questions, "questions", lambda each: each.append(each[0]))
    edit(questions, "questions", lambda each: each[1].update(question_id=77))
    answers = folder / "v2_mscoco_train2014_annotations.json"
    edit(answers, "annotations", lambda each: each[4].update(image_id=6))
    with pytest.raises(ValueError) as caught:
        _measure(tiny_flava(), settings(root), recipe=QUICK)
    said = str(caught.value)
    for line in (
        "question ids that occur twice: 1000\n",
        "questions without an annotation: 77\n",
        "annotations of other questions: 2000\n",
        "annotations of another image than the question's: 5000\n",
        "COCO_train2014_000000000003.jpg\n",
    ):
        assert line in said


def test_an_annotation_file_of_other_questions_is_one_short_error(root: Path) -> None:
    other = (root / "vqav2/v2_mscoco_val2014_annotations.json").read_bytes()
    (root / "vqav2/v2_mscoco_train2014_annotations.json").write_bytes(other)
    with pytest.raises(ValueError) as caught:
        _read_questions(root / "vqav2", TRAIN, answered=True)
    assert "questions without an annotation: 1000, 2000" in str(caught.value)
    assert "and 30 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 4


def test_annotations_with_ids_twice_or_without_answers_are_refused(root: Path) -> None:
    path = root / "vqav2" / "v2_mscoco_train2014_annotations.json"
    edit(path, "annotations", lambda each: each.append(each[0]))
    edit(path, "annotations", lambda each: each[2].update(answers=[]))
    with pytest.raises(ValueError, match=r"twice: 1000\n.*\"answer\": 3000"):
        _read_questions(root / "vqav2", TRAIN, answered=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", 'no list "questions"'),
        ('{"questions": []}', 'no list "questions"'),
        ('{"questions": [{"question_id": "1", "image_id": 2, "question": "?"}]}', "place: 0"),
    ],
)
def test_a_file_of_another_form_is_refused(root: Path, content: str, said: str) -> None:
    path = root / "vqav2" / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=said):
        _read_questions(root / "vqav2", TRAIN, answered=True)


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    names = [
        "v2_OpenEnded_mscoco_train2014_questions.json",
        "v2_mscoco_train2014_annotations.json",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "train2014",
        "val2014",
    ]
    expected = [f"{tmp_path / 'vqav2' / name} is missing" for name in names]
    assert VQAV2.missing(tmp_path / "vqav2") == expected
    with pytest.raises(FileNotFoundError, match=names[0]):
        VQAV2.measure(tiny_flava(), settings(tmp_path))


def test_answers_must_be_frequent_enough(tmp_path: Path) -> None:
    for subset in ("train2014", "val2014"):
        vqa(tmp_path, subset, about_colours(range(1, 5)), answered=True)
    with pytest.raises(ValueError, match="fewer than two answers are frequent enough"):
        _measure(tiny_flava(), settings(tmp_path), recipe=QUICK)

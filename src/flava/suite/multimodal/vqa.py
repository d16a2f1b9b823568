"""VQAv2 as in the paper: the official files, soft targets over 3,129 answers, 480 pixels.

The files are `v2_OpenEnded_mscoco_SUBSET_questions.json` and `v2_mscoco_SUBSET_annotations.json` of
visualqa.org, where SUBSET is train2014, val2014 or test-dev2015, and images such as
`COCO_train2014_000000000009.jpg` in `train2014/`, `val2014/` and `test2015/`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from flava.core.files import write_atomically
from flava.core.randomness import subsample
from flava.data.labelled import LabelledRow
from flava.evaluation.record import Figure
from flava.suite.data_mistakes import (
    duplicates,
    missing_names,
    raise_mistakes_by_kind,
    read_all,
)
from flava.suite.fine_tuning import FineTuned, FineTuningData, fine_tune_task
from flava.suite.multimodal.dataset_files import images_in, missing_paths, read_json
from flava.suite.multimodal.labelled_pairs import PairRecipe, recipe_for
from flava.suite.multimodal.vqa_answers import AnswerScorer, answer_scorer, soft_targets, vocabulary
from flava.suite.task import Settings, SuiteTask

TRAIN, VALIDATION, TEST_DEV = "train2014", "val2014", "test-dev2015"

IMAGES_OF = "coco"
"""The data set whose images these are, in the folder beside this one."""


@dataclass(frozen=True, kw_only=True)
class VqaQuestion:
    """A question about an image; test questions have no answers."""

    id: int
    image: Path
    text: str
    human_answers: tuple[str, ...] = ()
    """What people answered, ten of them."""
    commonest: str = ""
    """The official choice among these answers."""


def _questions_file(folder: Path, subset: str) -> Path:
    return folder / f"v2_OpenEnded_mscoco_{subset}_questions.json"


def _annotations_file(folder: Path, subset: str) -> Path:
    return folder / f"v2_mscoco_{subset}_annotations.json"


def _images_folder(folder: Path, subset: str) -> Path:
    """The folder of a subset's images; those of test-dev are in test2015."""
    return images_in(folder, subset.replace("test-dev", "test"), IMAGES_OF)


def _read_questions(folder: Path, subset: str, *, answered: bool) -> list[VqaQuestion]:
    """The questions of a subset in the file's order, with what people answered.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file has another form, repeats ids, or is empty; the answers are those of
            other questions; or images are missing. All mistakes in one error.
    """
    path = _questions_file(folder, subset)
    entries = _records(path, "questions", ("question_id", "image_id", "question"))
    answers = {} if not answered else _read_annotations(_annotations_file(folder, subset))
    images = _images_folder(folder, subset)
    questions = [_question_of(each, images, answers) for each in entries]
    raise_mistakes_by_kind(
        path,
        {
            "question ids that occur twice": duplicates(each.id for each in questions),
            **(_differences(entries, answers) if answered else {}),
            f"images that are missing in {images}": missing_names(each.image for each in questions),
        },
        "Fetch questions, annotations and images of the same release and subset.",
    )
    return questions


def _question_of(
    entry: Mapping[str, Any], images: Path, answers: Mapping[int, Mapping[str, Any]]
) -> VqaQuestion:
    question_id = entry["question_id"]
    annotation = answers.get(question_id)
    image = images / f"COCO_{images.name}_{entry['image_id']:012d}.jpg"
    if annotation is None:
        return VqaQuestion(id=question_id, image=image, text=entry["question"])
    return VqaQuestion(
        id=question_id,
        image=image,
        text=entry["question"],
        human_answers=tuple(each["answer"] for each in annotation["answers"]),
        commonest=annotation["multiple_choice_answer"],
    )


def _differences(
    entries: Sequence[Mapping[str, Any]], answers: Mapping[int, Mapping[str, Any]]
) -> dict[str, list[int]]:
    """Where the two files are not about the same questions: a kind of difference -> ids."""
    images = {each["question_id"]: each["image_id"] for each in entries}
    return {
        "questions without an annotation": [each for each in images if each not in answers],
        "annotations of other questions": [each for each in answers if each not in images],
        "annotations of another image than the question's": [
            number
            for number, each in answers.items()
            if images.get(number, each["image_id"]) != each["image_id"]
        ],
    }


def _read_annotations(path: Path) -> dict[int, dict[str, Any]]:
    """Id of a question -> its annotation; raises as `_read_questions`."""
    fields = ("question_id", "image_id", "multiple_choice_answer", "answers")
    entries = _records(path, "annotations", fields)
    raise_mistakes_by_kind(
        path,
        {
            "question ids that occur twice": duplicates(e["question_id"] for e in entries),
            'questions without "answers" with "answer"': [
                e["question_id"] for e in entries if not _well_formed(e["answers"])
            ],
        },
        "Fetch it anew.",
    )
    return {each["question_id"]: each for each in entries}


def _well_formed(answers: Any) -> bool:
    return bool(answers) and all(
        isinstance(each, dict) and isinstance(each.get("answer"), str) for each in answers
    )


FIELDS = {
    "question_id": int,
    "image_id": int,
    "question": str,
    "multiple_choice_answer": str,
    "answers": list,
}


def _records(path: Path, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The list ``name`` of a file; raises ValueError if it, or a field of an entry, is missing or
    of another type."""
    content = read_json(path)
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} has no list "{name}": it is not the official file')
    malformed = [
        place
        for place, each in enumerate(entries)
        if not isinstance(each, dict) or any(type(each.get(f)) is not FIELDS[f] for f in fields)
    ]
    kind = f"entries without {', '.join(fields)}, by place"
    raise_mistakes_by_kind(path, {kind: malformed}, "Fetch it anew.")
    return entries


NAME = "vqav2"

METRIC = "vqa_accuracy"

RECIPE = PairRecipe(max_steps=44_000, lr=1e-4, image_size=480, train_samples=443_757)

RESULTS = "v2_OpenEnded_mscoco_test-dev2015_flava_results.json"
"""The file name that VQA's server asks for: VERSION_OpenEnded_mscoco_SUBSET_METHOD_results.json."""


def _measure(model: nn.Module, settings: Settings, *, recipe: PairRecipe = RECIPE) -> list[Figure]:
    """Fine-tune on the training questions, and measure on the validation questions.

    The validation questions choose the checkpoint too, which flatters the figure a little. The
    paper reports test-dev, whose answers are not public. If its questions are there and all samples
    are used, a file of answers for VQA's server is written to the fine-tuned run's folder.

    Raises:
        FileNotFoundError, ValueError: as `_read_questions`; or too few answers are frequent enough.
        Interrupted, FloatingPointError, OSError: as `fine_tune_task`.
    """
    folder = settings.data_root / NAME
    for_server = settings.few is None and _questions_file(folder, TEST_DEV).is_file()
    train, validation, *tests = read_all(
        *(partial(_read_questions, folder, each, answered=True) for each in (TRAIN, VALIDATION)),
        # Read before the days of training, which a missing image must not cost.
        *([partial(_read_questions, folder, TEST_DEV, answered=False)] if for_server else []),
    )
    answers = vocabulary(each.commonest for each in (*train, *validation))
    if len(answers) < 2:
        raise ValueError(f"{folder}: fewer than two answers are frequent enough to be learned")
    train, validation = (
        subsample(each, settings.few, settings.seed, subset)
        for each, subset in ((train, TRAIN), (validation, VALIDATION))
    )
    scorers = {str(each.id): answer_scorer(each.human_answers) for each in validation}
    data = FineTuningData(
        task=NAME,
        kind="pairs",
        classes=answers,
        train=[_row_of(each) for each in train],
        validation=[_row_of(each) for each in validation],
        score=partial(score, scorers=scorers, answers=answers),
    )
    tuning = recipe_for(recipe, model, len(train), few=settings.few is not None)
    tuned = fine_tune_task(model, data, tuning, settings, settings.seed)
    for questions in tests:
        _write_results(tuned, questions, tuned.run.output_dir / RESULTS)
    outputs = tuned.outputs(data.validation, "validation questions")
    constant = _majority(train)
    baseline = sum(accuracy(constant) for accuracy in scorers.values()) / len(scorers)
    return [
        Figure(
            task=NAME,
            split="validation",
            metric=METRIC,
            value=data.score(outputs, data.validation)[METRIC],
            n=len(validation),
            baselines={"majority": baseline},
        )
    ]


def _row_of(question: VqaQuestion) -> LabelledRow:
    """A question as a row, with its soft targets if it has answers."""
    return LabelledRow(
        shard=question.image.parent.name,
        key=str(question.id),
        image=question.image,
        text=question.text,
        answers=soft_targets(question.human_answers) if question.human_answers else None,
    )


def score(
    outputs: Float[Tensor, "rows answers"],
    rows: Sequence[LabelledRow],
    *,
    scorers: Mapping[str, AnswerScorer],
    answers: Sequence[str],
) -> dict[str, float]:
    """The official accuracy of the likeliest answers.

    Args:
        scorers: Key of a row -> the accuracy of any answer to its question.
        answers: Those that the outputs are for.
    """
    pairs = zip(_likeliest(outputs, answers), rows, strict=True)
    return {METRIC: sum(scorers[row.key](answer) for answer, row in pairs) / len(rows)}


def _likeliest(outputs: Float[Tensor, "rows answers"], answers: Sequence[str]) -> list[str]:
    return [answers[int(place)] for place in outputs.argmax(dim=1)]


def _majority(questions: Sequence[VqaQuestion]) -> str:
    """The commonest answer of all questions; the first by the alphabet if there are several."""
    counts = Counter(each.commonest for each in questions)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _write_results(tuned: FineTuned, questions: Sequence[VqaQuestion], path: Path) -> None:
    """Write the answers to test-dev's questions as VQA's server takes them: a list of
    {"question_id", "answer"}.

    Raises:
        ValueError: images cannot be decoded; they are named.
        OSError: it could not be written.
    """
    outputs = tuned.outputs([_row_of(each) for each in questions], "test-dev questions")
    answers = _likeliest(outputs, tuned.classifier.config.classes)
    results = [
        {"question_id": each.id, "answer": answer}
        for each, answer in zip(questions, answers, strict=True)
    ]
    write_atomically(path, json.dumps(results).encode() + b"\n")


def _missing(folder: Path) -> list[str]:
    """The files and folders that are missing; single images are checked when they are read.

    Test-dev's are not needed: without its questions no file for the server is written.
    """
    subsets = TRAIN, VALIDATION
    files = [
        each(folder, subset) for subset in subsets for each in (_questions_file, _annotations_file)
    ]
    return missing_paths([*files, *(_images_folder(folder, subset) for subset in subsets)])


VQAV2 = SuiteTask(
    name=NAME,
    group="multimodal",
    rows=(("VQAv2", METRIC),),
    folder=NAME,
    source="questions and annotations of visualqa.org (VQA v2.0, real images); train2014.zip, "
    "val2014.zip and test2015.zip of cocodataset.org, here or in the folder coco beside it",
    licence="annotations CC BY 4.0; images: Flickr's terms",
    missing=_missing,
    measure=_measure,
)

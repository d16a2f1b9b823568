"""VQAv2 from its official files: questions, what people answered, and COCO's images.

`v2_OpenEnded_mscoco_SUBSET_questions.json` and `v2_mscoco_SUBSET_annotations.json` of visualqa.org,
SUBSET being train2014, val2014 or test-dev2015; images `COCO_train2014_000000000009.jpg` in
`train2014/`, `val2014/` and `test2015/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flava.evaluation.suite.multimodal.files import images_in, read_json
from flava.evaluation.suite.multimodal.mistakes import absent, refuse, repeated

TRAIN, VALIDATION, TEST_DEV = "train2014", "val2014", "test-dev2015"

LENDER = "coco"
"""The neighbouring data set whose images these are."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about an image; ``given`` and ``commonest`` are empty for test questions."""

    number: int
    image: Path
    text: str
    given: tuple[str, ...] = ()
    """What people answered, ten of them."""
    commonest: str = ""
    """The official choice among the answers."""


def questions_file(folder: Path, subset: str) -> Path:
    return folder / f"v2_OpenEnded_mscoco_{subset}_questions.json"


def annotations_file(folder: Path, subset: str) -> Path:
    return folder / f"v2_mscoco_{subset}_annotations.json"


def images_folder(folder: Path, subset: str) -> Path:
    """Those of test-dev are among test2015's."""
    return images_in(folder, subset.replace("test-dev", "test"), LENDER)


def read_questions(folder: Path, subset: str, *, answered: bool) -> list[Question]:
    """The questions of a subset in the file's order, with what people answered.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not of that form, has ids twice, or none; the answers are those of
            other questions; or images are missing. All mistakes in one error.
    """
    path = questions_file(folder, subset)
    entries = records(path, "questions", ("question_id", "image_id", "question"))
    answers = {} if not answered else read_annotations(annotations_file(folder, subset))
    images = images_folder(folder, subset)
    found = [question_of(each, images, answers) for each in entries]
    refuse(
        path,
        {
            "question ids that stand there twice": repeated(each.number for each in found),
            **(differences(entries, answers) if answered else {}),
            f"images that are missing in {images}": absent(each.image for each in found),
        },
        "Fetch questions, annotations and images of the same release and subset.",
    )
    return found


def question_of(
    entry: Mapping[str, Any], images: Path, answers: Mapping[int, Mapping[str, Any]]
) -> Question:
    number, annotation = entry["question_id"], answers.get(entry["question_id"])
    image = images / f"COCO_{images.name}_{entry['image_id']:012d}.jpg"
    if annotation is None:
        return Question(number=number, image=image, text=entry["question"])
    return Question(
        number=number,
        image=image,
        text=entry["question"],
        given=tuple(each["answer"] for each in annotation["answers"]),
        commonest=annotation["multiple_choice_answer"],
    )


def differences(
    entries: Sequence[Mapping[str, Any]], answers: Mapping[int, Mapping[str, Any]]
) -> dict[str, list[int]]:
    """In what the two files are not about the same questions."""
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


def read_annotations(path: Path) -> dict[int, dict[str, Any]]:
    """By the question's id; raises as `read_questions`."""
    fields = ("question_id", "image_id", "multiple_choice_answer", "answers")
    entries = records(path, "annotations", fields)
    refuse(
        path,
        {
            "question ids that stand there twice": repeated(e["question_id"] for e in entries),
            'questions without "answers" with "answer"': [
                e["question_id"] for e in entries if not answers_hold(e["answers"])
            ],
        },
        "Fetch it anew.",
    )
    return {each["question_id"]: each for each in entries}


def answers_hold(answers: Any) -> bool:
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


def records(path: Path, name: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The list of that name; raises ValueError if there is none or fields are not as they must."""
    whole = read_json(path)
    entries = whole.get(name) if isinstance(whole, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} has no list "{name}": it is not the official file')
    malformed = [
        place
        for place, each in enumerate(entries)
        if not isinstance(each, dict) or any(type(each.get(f)) is not FIELDS[f] for f in fields)
    ]
    refuse(path, {f"entries without {', '.join(fields)}, by place": malformed}, "Fetch it anew.")
    return entries

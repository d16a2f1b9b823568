"""VQAv2 by the paper: the official files, soft targets over 3,129 answers, 480 pixels.

`v2_OpenEnded_mscoco_SUBSET_questions.json` and `v2_mscoco_SUBSET_annotations.json` of visualqa.org,
SUBSET being train2014, val2014 or test-dev2015; images `COCO_train2014_000000000009.jpg` in
`train2014/`, `val2014/` and `test2015/`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from flava.finetuning.fine_tuner import FineTuned, Score, TuningSamples, fine_tune
from flava.suite.multimodal.dataset_files import (
    absent,
    images_in,
    missing_of,
    read_all,
    read_json,
    refuse,
    repeated,
)
from flava.suite.multimodal.labelled_pairs import Protocol, tuning
from flava.suite.multimodal.vqa_answers import judge, soft_targets, vocabulary
from flava.suite.task import Settings, SuiteTask

TRAIN, VALIDATION, TEST_DEV = "train2014", "val2014", "test-dev2015"

LENDER = "coco"
"""The neighbouring data set whose images these are."""


@dataclass(frozen=True, kw_only=True)
class VqaQuestion:
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


def read_questions(folder: Path, subset: str, *, answered: bool) -> list[VqaQuestion]:
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
) -> VqaQuestion:
    number, annotation = entry["question_id"], answers.get(entry["question_id"])
    image = images / f"COCO_{images.name}_{entry['image_id']:012d}.jpg"
    if annotation is None:
        return VqaQuestion(number=number, image=image, text=entry["question"])
    return VqaQuestion(
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


NAME = "vqav2"

METRIC = "vqa_accuracy"

PROTOCOL = Protocol(updates=44_000, lr=1e-4, image_size=480, samples=443_757)

RESULTS = "v2_OpenEnded_mscoco_test-dev2015_flava_results.json"
"""The name that the server asks for: VERSION_OpenEnded_mscoco_SUBSET_METHOD_results.json."""


def measure(model: nn.Module, settings: Settings, *, protocol: Protocol = PROTOCOL) -> list[Figure]:
    """Fine-tune on the training questions, and measure on the validation questions.

    These choose the checkpoint too, which flatters a little; those of the paper's figure, test-dev,
    have no public answers. If their questions are there, and all samples are looked at, a file of
    answers for the server is written into the folder of the fine-tuned run.

    Raises:
        FileNotFoundError, ValueError: as `read_questions`; or too few answers are frequent enough.
        Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """
    folder = settings.data_root / NAME
    for_server = settings.few is None and questions_file(folder, TEST_DEV).is_file()
    train, validation, *tests = read_all(
        *(partial(read_questions, folder, each, answered=True) for each in (TRAIN, VALIDATION)),
        # Before the days of training, so that none is lost to a missing image.
        *([partial(read_questions, folder, TEST_DEV, answered=False)] if for_server else []),
    )
    answers = vocabulary(each.commonest for each in (*train, *validation))
    if len(answers) < 2:
        raise ValueError(f"{folder}: fewer than two answers are frequent enough to be learned")
    train, validation = (
        subsample(each, settings.few, settings.seed, subset)
        for each, subset in ((train, TRAIN), (validation, VALIDATION))
    )
    judges = {str(each.number): judge(each.given) for each in validation}
    samples = TuningSamples(
        task=NAME,
        kind="pairs",
        classes=answers,
        train=[row_of(each) for each in train],
        validation=[row_of(each) for each in validation],
        score=scorer(judges, answers),
    )
    config = tuning(protocol, model, len(train), few=settings.few is not None)
    tuned = fine_tune(model, samples, config, settings, settings.seed)
    for questions in tests:
        write_results(tuned, questions, tuned.run.output_dir / RESULTS)
    outputs = tuned.outputs(samples.validation, "validation questions")
    constant = majority(train)
    baseline = sum(accuracy(constant) for accuracy in judges.values()) / len(judges)
    return [
        Figure(
            task=NAME,
            split="validation",
            metric=METRIC,
            value=samples.score(outputs, samples.validation)[METRIC],
            n=len(validation),
            baselines={"majority": baseline},
        )
    ]


def row_of(question: VqaQuestion) -> LabelledRow:
    """What is read of a question, with its soft targets if there are answers."""
    return LabelledRow(
        shard=question.image.parent.name,
        key=str(question.number),
        image=question.image,
        text=question.text,
        answers=soft_targets(question.given) if question.given else None,
    )


def scorer(judges: Mapping[str, Callable[[str], float]], answers: Sequence[str]) -> Score:
    """The official accuracy of the likeliest answers; judges by the keys of the questions' rows."""

    def score(
        outputs: Float[Tensor, "rows answers"], rows: Sequence[LabelledRow]
    ) -> dict[str, float]:
        pairs = zip(likeliest(outputs, answers), rows, strict=True)
        return {METRIC: sum(judges[row.key](answer) for answer, row in pairs) / len(rows)}

    return score


def likeliest(outputs: Float[Tensor, "rows answers"], answers: Sequence[str]) -> list[str]:
    return [answers[int(place)] for place in outputs.argmax(dim=1)]


def majority(questions: Sequence[VqaQuestion]) -> str:
    """The commonest answer of all; by the alphabet if there are several."""
    counts = Counter(each.commonest for each in questions)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def write_results(tuned: FineTuned, questions: Sequence[VqaQuestion], path: Path) -> None:
    """Answers to the questions of test-dev as the server takes them: a list of {"question_id",
    "answer"}.

    Raises:
        ValueError: images cannot be decoded; they are named.
        OSError: it could not be written.
    """
    outputs = tuned.outputs([row_of(each) for each in questions], "test-dev questions")
    answers = likeliest(outputs, tuned.classifier.config.classes)
    found = [
        {"question_id": each.number, "answer": answer}
        for each, answer in zip(questions, answers, strict=True)
    ]
    write_atomically(path, json.dumps(found).encode() + b"\n")


def missing(folder: Path) -> list[str]:
    """Of the files and folders that are read; single images are looked for when it is measured.

    Test-dev is left out: without its questions no file for the server is written.
    """
    subsets = TRAIN, VALIDATION
    files = [
        each(folder, subset) for subset in subsets for each in (questions_file, annotations_file)
    ]
    return missing_of([*files, *(images_folder(folder, subset) for subset in subsets)])


VQAV2 = SuiteTask(
    name=NAME,
    group="multimodal",
    rows=(("VQAv2", METRIC),),
    folder=NAME,
    source="questions and annotations of visualqa.org (VQA v2.0, real images); train2014.zip, "
    "val2014.zip and test2015.zip of cocodataset.org, here or in the folder coco beside it",
    licence="annotations CC BY 4.0; images: Flickr's terms",
    missing=missing,
    measure=measure,
)

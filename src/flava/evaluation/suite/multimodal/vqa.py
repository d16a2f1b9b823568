"""VQAv2 by the paper's protocol: soft targets over 3,129 answers, official accuracy, 480 pixels."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from flava.data.labelled import Row
from flava.evaluation.record import Figure
from flava.evaluation.suite.few import few_of
from flava.evaluation.suite.finetuning import FineTuned, Samples, Score, fine_tune
from flava.evaluation.suite.multimodal.answers import judge, soft_targets, vocabulary
from flava.evaluation.suite.multimodal.mistakes import missing_of, read_all
from flava.evaluation.suite.multimodal.protocol import Protocol, tuning
from flava.evaluation.suite.multimodal.questions import (
    TEST_DEV,
    TRAIN,
    VALIDATION,
    Question,
    annotations_file,
    images_folder,
    questions_file,
    read_questions,
)
from flava.evaluation.suite.task import Settings, SuiteTask
from flava.training.files import write_whole

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
        few_of(each, settings.few, settings.seed, subset)
        for each, subset in ((train, TRAIN), (validation, VALIDATION))
    )
    judges = {str(each.number): judge(each.given) for each in validation}
    samples = Samples(
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


def row_of(question: Question) -> Row:
    """What is read of a question, with its soft targets if there are answers."""
    return Row(
        shard=question.image.parent.name,
        key=str(question.number),
        image=question.image,
        text=question.text,
        answers=soft_targets(question.given) if question.given else None,
    )


def scorer(judges: Mapping[str, Callable[[str], float]], answers: Sequence[str]) -> Score:
    """The official accuracy of the likeliest answers; judges by the keys of the questions' rows."""

    def score(outputs: Float[Tensor, "rows answers"], rows: Sequence[Row]) -> dict[str, float]:
        pairs = zip(likeliest(outputs, answers), rows, strict=True)
        return {METRIC: sum(judges[row.key](answer) for answer, row in pairs) / len(rows)}

    return score


def likeliest(outputs: Float[Tensor, "rows answers"], answers: Sequence[str]) -> list[str]:
    return [answers[int(place)] for place in outputs.argmax(dim=1)]


def majority(questions: Sequence[Question]) -> str:
    """The commonest answer of all; by the alphabet if there are several."""
    counts = Counter(each.commonest for each in questions)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def write_results(tuned: FineTuned, questions: Sequence[Question], path: Path) -> None:
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
    write_whole(path, json.dumps(found).encode() + b"\n")


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

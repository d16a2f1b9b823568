"""SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

from functools import partial
from pathlib import Path

from torch import nn

from flava.evaluation.record import Figure
from flava.suite.multimodal.dataset_files import FLICKR_IMAGES, images_in, missing_of, read_all
from flava.suite.multimodal.labelled_pairs import (
    FieldLayout,
    PairClassification,
    Protocol,
    Splits,
    argmax_accuracy,
    classify,
    few_of_each,
    read_pairs,
)
from flava.suite.task import Settings, SuiteTask

NAME = "snli_ve"

LENDER = "flickr30k"
"""The neighbouring data set whose images these are."""

CLASSES = ("entailment", "neutral", "contradiction")

SPLITS = ("train", "dev", "test")

LAYOUT = FieldLayout(
    id="pairID",
    image=("Flickr30K_ID", "Flikr30kID"),
    suffix=".jpg",
    text="sentence2",
    label="gold_label",
    classes={name: name for name in CLASSES},
)
"""github.com/necla-ml/SNLI-VE, `snli_ve_generator.py`: the image's id has had the first name since
April 2020. In the files of the first release it has the second, sic, and ends in .jpg."""

PROTOCOL = Protocol(updates=24_000, lr=1e-5, image_size=224, samples=529_527)


def measure(model: nn.Module, settings: Settings, *, protocol: Protocol = PROTOCOL) -> list[Figure]:
    """Accuracy on the test split of the checkpoint that is best on dev.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs`.
        Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """
    folder = settings.data_root / NAME
    images = images_in(folder, FLICKR_IMAGES, LENDER)
    whole = read_all(
        *(partial(read_pairs, file_of(folder, split), images, LAYOUT) for split in SPLITS)
    )
    train, dev, test = (few_of_each(rows, settings.few, settings.seed) for rows in whole)
    task = PairClassification(
        name=NAME, classes=CLASSES, metrics={"accuracy": argmax_accuracy}, protocol=protocol
    )
    return classify(model, task, Splits(train=train, validation=dev, test=test), settings)


def file_of(folder: Path, split: str) -> Path:
    return folder / f"snli_ve_{split}.jsonl"


def missing(folder: Path) -> list[str]:
    """Of the files and folders that are read; single images are looked for when it is measured."""
    files = [file_of(folder, split) for split in SPLITS]
    return missing_of([*files, images_in(folder, FLICKR_IMAGES, LENDER)])


SNLI_VE = SuiteTask(
    name=NAME,
    group="multimodal",
    rows=(("SNLI-VE", "accuracy"),),
    folder=NAME,
    source="the JSON lines of github.com/necla-ml/SNLI-VE; the images of Flickr30K, here or in the "
    "folder flickr30k beside it",
    licence="SNLI's annotations CC BY-SA 4.0; images: Flickr's terms, for non-commercial research",
    missing=missing,
    measure=measure,
)

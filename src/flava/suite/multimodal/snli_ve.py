"""SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

from functools import partial
from pathlib import Path

from torch import nn

from flava.evaluation.record import Figure
from flava.suite.data_mistakes import read_all
from flava.suite.multimodal.dataset_files import FLICKR_IMAGES, images_in, missing_paths
from flava.suite.multimodal.labelled_pairs import (
    PairFields,
    PairRecipe,
    PairTask,
    argmax_accuracy,
    few_of_each,
    measure_pairs,
    read_pairs,
)
from flava.suite.task import Settings, SuiteTask

NAME = "snli_ve"

IMAGES_OF = "flickr30k"
"""The data set whose images these are, in the folder beside this one."""

CLASSES = ("entailment", "neutral", "contradiction")

SPLITS = ("train", "dev", "test")

FIELDS = PairFields(
    id="pairID",
    image=("Flickr30K_ID", "Flikr30kID"),
    suffix=".jpg",
    text="sentence2",
    label="gold_label",
    classes={name: name for name in CLASSES},
)
"""github.com/necla-ml/SNLI-VE, `snli_ve_generator.py`: the image's id has had the first name since
April 2020. In the files of the first release it has the second (sic), and ends in .jpg."""

RECIPE = PairRecipe(max_steps=24_000, lr=1e-5, image_size=224, train_samples=529_527)


def _measure(model: nn.Module, settings: Settings, *, recipe: PairRecipe = RECIPE) -> list[Figure]:
    """Accuracy on the test split, of the checkpoint that is best on the dev split.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs`.
        Interrupted, FloatingPointError, OSError: as `fine_tune_task`.
    """
    folder = settings.data_root / NAME
    images = images_in(folder, FLICKR_IMAGES, IMAGES_OF)
    whole = read_all(
        *(partial(read_pairs, _file_of(folder, split), images, FIELDS) for split in SPLITS)
    )
    train, dev, test = (few_of_each(rows, settings.few, settings.seed) for rows in whole)
    task = PairTask(
        name=NAME,
        classes=CLASSES,
        metrics={"accuracy": argmax_accuracy},
        recipe=recipe,
        train=train,
        validation=dev,
        test=test,
    )
    return measure_pairs(model, task, settings)


def _file_of(folder: Path, split: str) -> Path:
    return folder / f"snli_ve_{split}.jsonl"


def _missing(folder: Path) -> list[str]:
    """The files and folders that are missing; single images are checked when they are read."""
    files = [_file_of(folder, split) for split in SPLITS]
    return missing_paths([*files, images_in(folder, FLICKR_IMAGES, IMAGES_OF)])


SNLI_VE = SuiteTask(
    name=NAME,
    group="multimodal",
    rows=(("SNLI-VE", "accuracy"),),
    folder=NAME,
    source="the JSON lines of github.com/necla-ml/SNLI-VE; the images of Flickr30K, here or in the "
    "folder flickr30k beside it",
    licence="SNLI's annotations CC BY-SA 4.0; images: Flickr's terms, for non-commercial research",
    missing=_missing,
    measure=_measure,
)

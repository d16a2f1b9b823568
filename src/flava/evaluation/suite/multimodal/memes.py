"""Hateful Memes: is an image with its text hateful?

As in the paper, the text is what OCR reads off the image; a second task takes the text that comes
with the data set, which people wrote down.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from flava.data.labelled import Row
from flava.evaluation.record import Figure
from flava.evaluation.suite.multimodal.classification import (
    Classification,
    Splits,
    argmax_accuracy,
    classify,
)
from flava.evaluation.suite.multimodal.labelled_lines import Layout, few_of_each, read_pairs
from flava.evaluation.suite.multimodal.mistakes import missing_of, read_all
from flava.evaluation.suite.multimodal.ocr import texts_in
from flava.evaluation.suite.multimodal.protocol import Protocol
from flava.evaluation.suite.task import Settings, SuiteTask

NAME = "hateful_memes"

CLASSES = ("not hateful", "hateful")

LAYOUT = Layout(
    id="id", image=("img",), suffix="", text="text", label="label", classes=dict(enumerate(CLASSES))
)

PHASES = ("unseen", "seen")
"""The challenge's two pairs of development and test splits. The paper does not say which it is on;
its authors' framework has the unseen ones for a default (facebookresearch/mmf, issue 967)."""

PROTOCOL = Protocol(updates=24_000, lr=1e-5, image_size=224, samples=8_500)


def measure(
    model: nn.Module, settings: Settings, *, own_text: bool = False, protocol: Protocol = PROTOCOL
) -> list[Figure]:
    """ROC AUC and accuracy on the test split of the checkpoint whose area is largest on dev.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs` and `texts_in`.
        Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """
    folder = settings.data_root / NAME
    files = files_of(folder)
    whole = read_all(*(partial(read_pairs, file, folder, LAYOUT) for file in files))
    splits = [few_of_each(rows, settings.few, settings.seed) for rows in whole]
    if not own_text:
        splits = [with_read_text(rows, settings.cache) for rows in splits]
    task = Classification(
        name=f"{NAME}_own_text" if own_text else NAME,
        classes=CLASSES,
        metrics={"roc_auc": roc_auc, "accuracy": argmax_accuracy},
        protocol=protocol,
    )
    train, dev, test = splits
    parts = Splits(train=train, validation=dev, test=test, name=files[-1].stem)
    return classify(model, task, parts, settings)


def files_of(folder: Path) -> list[Path]:
    """Train, dev and test, of the first phase that is there, or else of the first."""
    found = [
        [folder / f"{name}.jsonl" for name in ("train", f"dev_{phase}", f"test_{phase}")]
        for phase in PHASES
    ]
    return next((files for files in found if not missing_of(files)), found[0])


def with_read_text(rows: Sequence[Row], cache: Path) -> list[Row]:
    """The same with the text that is read off the images; errors as `texts_in`."""
    images = [row.image for row in rows if isinstance(row.image, Path)]
    texts = texts_in(images, cache)
    return [replace(row, text=text) for row, text in zip(rows, texts, strict=True)]


def roc_auc(logits: Float[Tensor, "rows classes"], truth: Int[Tensor, " rows"]) -> float:
    """The area under the ROC curve of "hateful"; both classes must be there."""
    return float(roc_auc_score(truth.numpy(), (logits[:, 1] - logits[:, 0]).numpy()))


def missing(folder: Path) -> list[str]:
    """Of the files and folders that are read; single images are looked for when it is measured."""
    return missing_of([*files_of(folder), folder / "img"])


def task_of(*, own_text: bool) -> SuiteTask:
    return SuiteTask(
        name=f"{NAME}_own_text" if own_text else NAME,
        group="multimodal",
        rows=() if own_text else (("Hateful Memes", "roc_auc"),),
        folder=NAME,
        source="the Hateful Memes challenge of Meta AI, with the labels of its test split",
        licence="the challenge's own: research alone, no redistribution",
        missing=missing,
        measure=partial(measure, own_text=own_text),
    )


HATEFUL_MEMES = task_of(own_text=False)

HATEFUL_MEMES_OWN_TEXT = task_of(own_text=True)
"""Asked for by name, and no row of the table."""

"""Hateful Memes: is an image with its text hateful?

As in the paper, the text is what OCR reads in the image. A second task takes the text that comes
with the data set, which people wrote down.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from flava.core.progress import counted
from flava.data.decoding import decode_image
from flava.data.errors import SampleError
from flava.data.labelled import LabelledRow
from flava.data.tables import Record, read_table
from flava.evaluation.record import Figure
from flava.suite.data_mistakes import raise_mistakes_by_kind, read_all
from flava.suite.multimodal.dataset_files import missing_paths
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

LIBRARY = "rapidocr"


def _texts_in(images: Sequence[Path], cache: Path) -> list[str]:
    """The text in each image, its lines joined by blanks; "" if there is none.

    Texts are kept in ``cache``/ocr by the image's content and the library's version, each as soon
    as it is read: no image is read twice.

    Raises:
        ValueError: the library is not installed, or images cannot be decoded: these are named.
    """
    path = cache / "ocr" / f"{LIBRARY}-{_library_version()}.jsonl"
    known = _cached_texts(path)
    texts: list[str] = []
    unreadable: list[str] = []
    engine = None
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("" if _ends_with_newline(path) else "\n")
        for image in counted(images, lambda _: 1, len(images), "reading text in images"):
            try:
                content = image.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                if digest not in known:
                    engine = engine or _start_ocr()
                    # Raises SampleError if the image cannot be decoded.
                    known[digest] = " ".join(engine(decode_image(content)).txts or ())
                    file.write(json.dumps({"image": digest, "text": known[digest]}) + "\n")
                    file.flush()
                texts.append(known[digest])
            except (SampleError, OSError) as error:
                unreadable.append(f"{image.name} ({error})")
    raise_mistakes_by_kind(
        cache, {"images whose text cannot be read": unreadable}, "Fetch these images anew."
    )
    return texts


def _library_version() -> str:
    """The OCR library's version; raises ValueError if it is not installed."""
    try:
        return metadata.version(LIBRARY)
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"{LIBRARY}, which reads the text in images, is not installed: pip install "
            "'flava[ocr]', or take the task that reads the data set's own text"
        ) from error


def _cached_texts(path: Path) -> dict[str, str]:
    """Digest of an image -> its text; a line that was cut off is skipped."""
    if not path.is_file():
        return {}
    records = (each.cells for each in read_table(path, ()) if isinstance(each, Record))
    return {each["image"]: each["text"] for each in records}


def _ends_with_newline(path: Path) -> bool:
    """Whether the last line of a file was not cut off."""
    return path.read_bytes().endswith(b"\n") or not path.stat().st_size


def _start_ocr() -> Any:
    """An engine of the OCR library, with the models that come with it.

    Raises:
        ValueError: the library, or what it computes with, is not installed.
    """
    try:
        return import_module(LIBRARY).RapidOCR(params={"Global.log_level": "error"})
    except ImportError as error:
        raise ValueError(f"{LIBRARY} cannot be used ({error}): pip install 'flava[ocr]'") from error


NAME = "hateful_memes"

CLASSES = ("not hateful", "hateful")

FIELDS = PairFields(
    id="id", image=("img",), suffix="", text="text", label="label", classes=dict(enumerate(CLASSES))
)

PHASES = ("unseen", "seen")
"""The challenge's two pairs of development and test splits. The paper does not say which it uses;
the unseen ones are the default of its authors' framework (facebookresearch/mmf, issue 967)."""

RECIPE = PairRecipe(max_steps=24_000, lr=1e-5, image_size=224, train_samples=8_500)


def _measure(
    model: nn.Module, settings: Settings, *, own_text: bool = False, recipe: PairRecipe = RECIPE
) -> list[Figure]:
    """ROC AUC and accuracy on the test split, of the checkpoint with the best AUC on the dev split.

    Args:
        own_text: Whether texts are those of the data set, not those that OCR reads.

    Raises:
        FileNotFoundError, ValueError: as `read_pairs` and `_texts_in`.
        Interrupted, FloatingPointError, OSError: as `fine_tune_task`.
    """
    folder = settings.data_root / NAME
    files = _files_of(folder)
    whole = read_all(*(partial(read_pairs, file, folder, FIELDS) for file in files))
    splits = [few_of_each(rows, settings.few, settings.seed) for rows in whole]
    if not own_text:
        splits = [_with_ocr_text(rows, settings.cache) for rows in splits]
    train, dev, test = splits
    task = PairTask(
        name=f"{NAME}_own_text" if own_text else NAME,
        classes=CLASSES,
        metrics={"roc_auc": _roc_auc, "accuracy": argmax_accuracy},
        recipe=recipe,
        train=train,
        validation=dev,
        test=test,
        test_name=files[-1].stem,
    )
    return measure_pairs(model, task, settings)


def _files_of(folder: Path) -> list[Path]:
    """Train, dev and test files, of the first phase that is complete, or else of the first one."""
    phases = [
        [folder / f"{name}.jsonl" for name in ("train", f"dev_{phase}", f"test_{phase}")]
        for phase in PHASES
    ]
    return next((files for files in phases if not missing_paths(files)), phases[0])


def _with_ocr_text(rows: Sequence[LabelledRow], cache: Path) -> list[LabelledRow]:
    """The same rows with the texts that OCR reads in the images; raises as `_texts_in`."""
    images = [row.image for row in rows if isinstance(row.image, Path)]
    texts = _texts_in(images, cache)
    return [replace(row, text=text) for row, text in zip(rows, texts, strict=True)]


def _roc_auc(logits: Float[Tensor, "rows classes"], truth: Int[Tensor, " rows"]) -> float:
    """The area under the ROC curve of the class "hateful"; rows of both classes are needed."""
    return float(roc_auc_score(truth.numpy(), (logits[:, 1] - logits[:, 0]).numpy()))


def _missing(folder: Path) -> list[str]:
    """The files and folders that are missing; single images are checked when they are read."""
    return missing_paths([*_files_of(folder), folder / "img"])


def _task_of(*, own_text: bool) -> SuiteTask:
    return SuiteTask(
        name=f"{NAME}_own_text" if own_text else NAME,
        group="multimodal",
        rows=() if own_text else (("Hateful Memes", "roc_auc"),),
        folder=NAME,
        source="the Hateful Memes challenge of Meta AI, with the labels of its test split",
        licence="the challenge's own: research alone, no redistribution",
        missing=_missing,
        measure=partial(_measure, own_text=own_text),
    )


HATEFUL_MEMES = _task_of(own_text=False)

HATEFUL_MEMES_OWN_TEXT = _task_of(own_text=True)
"""Fills no row of Table C.1: it is measured if it is asked for by name."""

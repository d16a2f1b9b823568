"""Hateful Memes: is an image with its text hateful? The text may be read by OCR.

As in the paper, the text is what OCR reads off the image; a second task takes the text that comes
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
from flava.suite.multimodal.dataset_files import missing_of, read_all, refuse
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

LIBRARY = "rapidocr"


def texts_in(images: Sequence[Path], cache: Path) -> list[str]:
    """The text of each image, line after line with a blank between; "" if there is none.

    What was read before is taken from ``cache``/ocr, where it stands under the image's content and
    the library's version. If it is stopped, what was read so far is there.

    Raises:
        ValueError: the library is not installed, or images cannot be decoded: these are named.
    """
    kept = cache / "ocr" / f"{LIBRARY}-{version()}.jsonl"
    known = kept_texts(kept)
    found: list[str] = []
    wrong: list[str] = []
    engine = None
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("a", encoding="utf-8") as file:
        file.write("" if ends_whole(kept) else "\n")
        for path in counted(images, lambda _: 1, len(images), "reading text in images"):
            try:
                content = path.read_bytes()
                name = hashlib.sha256(content).hexdigest()
                if name not in known:
                    engine = engine or start()
                    known[name] = read(engine, content)
                    file.write(json.dumps({"image": name, "text": known[name]}) + "\n")
                    file.flush()
                found.append(known[name])
            except (SampleError, OSError) as error:
                wrong.append(f"{path.name} ({error})")
    refuse(cache, {"images whose text cannot be read": wrong}, "Fetch these images anew.")
    return found


def version() -> str:
    """The library's; raises ValueError if it is not installed."""
    try:
        return metadata.version(LIBRARY)
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"{LIBRARY}, which reads the text in images, is not installed: pip install "
            "'flava[ocr]', or take the task that reads the data set's own text"
        ) from error


def kept_texts(path: Path) -> dict[str, str]:
    """Texts by their images' digests; a line that was not written to its end is passed over."""
    if not path.is_file():
        return {}
    records = (each.cells for each in read_table(path, ()) if isinstance(each, Record))
    return {each["image"]: each["text"] for each in records}


def ends_whole(path: Path) -> bool:
    """Whether the last line was written to its end."""
    return path.read_bytes().endswith(b"\n") or not path.stat().st_size


def start() -> Any:
    """An engine with the models that come with the library.

    Raises:
        ValueError: it, or what it computes with, is not installed.
    """
    try:
        return import_module(LIBRARY).RapidOCR(params={"Global.log_level": "error"})
    except ImportError as error:
        raise ValueError(f"{LIBRARY} cannot be used ({error}): pip install 'flava[ocr]'") from error


def read(engine: Any, content: bytes) -> str:
    """The text of an image file; raises SampleError if it cannot be decoded."""
    lines = engine(decode_image(content)).txts
    return " ".join(lines or ())


NAME = "hateful_memes"

CLASSES = ("not hateful", "hateful")

LAYOUT = FieldLayout(
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
    task = PairClassification(
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


def with_read_text(rows: Sequence[LabelledRow], cache: Path) -> list[LabelledRow]:
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

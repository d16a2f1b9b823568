"""The text that stands in images, read by RapidOCR and kept, so that each image is read once."""

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from flava.data.decoding import decode_image
from flava.data.errors import SampleError
from flava.data.tables import Record, read_table
from flava.evaluation.outputs import counted
from flava.evaluation.suite.multimodal.mistakes import refuse

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

"""Reads what raw samples hold: images, codes, captions, texts; and whole shards for evaluation."""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image

from flava.data.decoding import decode_image, is_image
from flava.data.errors import SampleError, SkippedSample
from flava.data.shards import RawSample, read_shard, resolve_all
from flava.data.streaming import NamedSample

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A decoded sample, for evaluation."""

    key: str
    image: Image.Image | None
    meta: dict[str, Any]


def image_of(raw: RawSample) -> Image.Image:
    """The sample's image in RGB.

    Raises:
        SampleError: it has none, or ``decode_image`` fails.
    """
    return decode_image(image_file_of(raw))


def image_file_of(raw: RawSample) -> bytes:
    """Raises SampleError: the sample has no image."""
    data = _image_bytes(raw)
    if data is None:
        raise SampleError("sample has no image", f"files: {', '.join(sorted(raw.files))}")
    return data


def codes_of(raw: RawSample, name: str, grid: int) -> Integer[np.ndarray, "rows columns"]:
    """The codes that `flava data tokenize` wrote of the sample's image, under that name.

    Raises:
        SampleError: there are none of that name, or of another grid, or the file is damaged.
    """
    suffix = codes_suffix(name)
    if suffix not in raw.files:
        raise SampleError("sample has no codes of that name", f"it has no .{suffix}")
    try:
        codes = np.load(io.BytesIO(raw.files[suffix]), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SampleError("codes cannot be read", str(error)) from error
    if codes.shape != (grid, grid) or codes.dtype.kind not in "iu":
        expected = f"{grid} x {grid} integers expected"
        raise SampleError("codes do not fit", f"{expected}, {codes.dtype} {codes.shape} found")
    return codes


def codes_suffix(name: str) -> str:
    """The suffix of files with codes."""
    return f"codes-{name}.npy"


def caption_of(raw: RawSample, rng: np.random.Generator) -> str:
    """The text of a pair: the .txt, or the .json's "caption", or one of its "captions" at random.

    Raises:
        SampleError: there is none, it is empty, or the file is not UTF-8 or not JSON.
    """
    captions = _captions(raw)
    return _nonempty(captions[int(rng.integers(len(captions)))], "caption")


def first_caption(raw: RawSample) -> str:
    """As ``caption_of``, but of several captions always the first.

    Raises:
        SampleError: as ``caption_of``.
    """
    return _nonempty(_captions(raw)[0], "caption")


def _captions(raw: RawSample) -> list[object]:
    """The captions of a sample: at least one, which may not be a text."""
    if "txt" in raw.files:
        return [_utf8(raw.files["txt"])]
    if "json" not in raw.files:
        raise SampleError("sample has no caption", f"files: {', '.join(sorted(raw.files))}")
    meta = _json(raw.files["json"])
    captions = meta.get("captions", meta.get("caption"))
    return captions if isinstance(captions, list) and captions else [captions]


def text_of(raw: RawSample, rng: np.random.Generator) -> str:
    """The text of a sample: a plain line, a JSON line's "text" field, or a pair's caption.

    Only where a pair has several captions is one drawn at random.

    Raises:
        SampleError: there is none, it is empty, or the line is not UTF-8 or not JSON.
    """
    if "txt" in raw.files:
        return _nonempty(_utf8(raw.files["txt"]), "text")
    if "json" not in raw.files:
        raise SampleError("sample has no text", f"files: {', '.join(sorted(raw.files))}")
    meta = _json(raw.files["json"])
    if "text" not in meta and {"caption", "captions"} & meta.keys():
        return caption_of(raw, rng)
    return _nonempty(meta.get("text"), "text")


def read_samples(shards: Sequence[str]) -> list[Sample]:
    """All samples of some shards, decoded, in order; ``meta`` is the .json, a .txt is its "text".

    A corrupt sample is left out with a warning that names it.

    Raises:
        FileNotFoundError, ValueError: as ``resolve_all``; or no sample is left.
    """
    paths = resolve_all(shards)
    samples, skipped = [], []
    for path in paths:
        for item in read_shard(path):
            if isinstance(item, SkippedSample):
                skipped.append(item)
                continue
            try:
                samples.append(_sample(item))
            except SampleError as error:
                skipped.append(skip_sample(item, error))
    for report in skipped:
        log.warning("skipped %s", report)
    if not samples:
        raise ValueError(
            f"no usable sample in {', '.join(map(str, paths))}: "
            + "; ".join(str(report) for report in skipped[:3])
        )
    return samples


def skip_sample(raw: NamedSample, error: SampleError) -> SkippedSample:
    """A report on one sample."""
    return SkippedSample(shard=raw.shard, key=raw.key, reason=error.reason, message=str(error))


def usable_text(content: str | bytes, what: str = "text") -> str:
    """A text, or its bytes decoded; ``what`` names it in the error.

    Raises:
        SampleError: it is empty, or not UTF-8.
    """
    return _nonempty(_utf8(content) if isinstance(content, bytes) else content, what)


def _sample(raw: RawSample) -> Sample:
    data = _image_bytes(raw)
    meta = _json(raw.files["json"]) if "json" in raw.files else {}
    if "txt" in raw.files:
        meta["text"] = _utf8(raw.files["txt"])
    return Sample(key=raw.key, image=None if data is None else decode_image(data), meta=meta)


def _image_bytes(raw: RawSample) -> bytes | None:
    for suffix, data in raw.files.items():
        if is_image(f".{suffix}"):
            return data
    return None


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError("text is not UTF-8", f"byte {error.start}") from error


def _json(data: bytes) -> dict[str, Any]:
    text = _utf8(data)
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError("json cannot be decoded", str(error)) from error
    if not isinstance(meta, dict):
        raise SampleError("json is not an object", f"it is a {type(meta).__name__}")
    return meta


def _nonempty(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise SampleError(f"sample has no {what}", f"found {type(text).__name__}")
    if not text.strip():
        raise SampleError(f"{what} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise SampleError(f"{what} is not valid Unicode", f"character {error.start}") from error
    return text

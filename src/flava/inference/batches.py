"""Rows of a source in batches, their images decoded ahead by threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from flava.data.errors import SampleError, Skipped
from flava.inference.images import open_image
from flava.inference.sources import Found, Row, Source

DECODERS = 2
"""Threads that decode images. PIL lets go of Python's lock, so they do not wait for each other."""
AHEAD = 8
"""Images decoded before they are asked for: more would only take memory."""
BATCH_PIXELS = 128 * 2**20
"""A batch is closed early when its images have this many pixels: 384 MB in RGB."""


@dataclass(kw_only=True)
class Batch:
    """Rows that are computed at once; of texts alone, ``images`` is empty."""

    rows: list[Row] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    """What was left out among the rows."""
    consumed: int
    """How many rows of the source are over after this batch, those left out among them."""
    done: float = 0.0
    """The share of the source that is over after this batch."""

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows if row.text is not None]

    def is_full(self, size: int) -> bool:
        pixels = sum(image.width * image.height for image in self.images)
        return len(self.rows) >= size or pixels >= BATCH_PIXELS


def batches(source: Source, size: int, consumed: int = 0) -> Iterator[Batch]:
    """All batches after the first ``consumed`` rows, in order.

    Which rows share a batch depends on the source and on ``size`` alone, if ``consumed`` is where
    a batch ended: so an interrupted run computes what an uninterrupted one does.
    """
    batch = Batch(consumed=consumed)
    for done, decoded in _decoded(islice(source.rows(), consumed, None)):
        batch.consumed += 1
        batch.done = done
        if isinstance(decoded, Skipped):
            batch.skipped.append(decoded)
            continue
        row, image = decoded
        batch.rows.append(row)
        if image is not None:
            batch.images.append(image)
        if batch.is_full(size):
            yield batch
            batch = Batch(consumed=batch.consumed)
    if batch.rows or batch.skipped:
        yield batch


Decoded = tuple[Row, Image.Image | None] | Skipped


def _decoded(rows: Iterator[tuple[float, Found]]) -> Iterator[tuple[float, Decoded]]:
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: deque[tuple[float, Future[Decoded] | Decoded]] = deque()

        def oldest() -> tuple[float, Decoded]:
            done, decoded = waiting.popleft()
            return done, decoded.result() if isinstance(decoded, Future) else decoded

        try:
            for done, found in rows:
                if isinstance(found, Skipped):
                    waiting.append((done, found))
                elif found.image is None:
                    waiting.append((done, (found, None)))
                else:
                    waiting.append((done, pool.submit(_decode, found, found.image)))
                if len(waiting) > AHEAD:
                    yield oldest()
            while waiting:
                yield oldest()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(row: Row, image: Path | bytes) -> Decoded:
    try:
        opened = open_image(image)
    except SampleError as error:
        return Skipped(shard="", key=row.path or "", reason=error.reason, message=str(error))
    # Its bytes are not needed any more, and a batch's would add up.
    return Row(path=row.path, text=row.text), opened

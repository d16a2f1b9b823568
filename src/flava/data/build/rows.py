"""Rows of annotations: pairs as they are listed, before anything of them was looked at."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flava.data.errors import SampleError, Skipped


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A pair, an image alone (no caption) or a text alone (no image)."""

    place: str
    """FILE:ROW, for messages."""
    captions: tuple[Any, ...] = ()
    """Texts to try in turn: the first that passes the filters is taken."""
    names: tuple[str, ...] = ()
    """Where the image may be below the folder of images, tried in turn."""
    url: str | None = None
    """Where the image was published."""
    data: bytes | None = field(default=None, repr=False)
    """The image's file, where the annotations hold it."""
    box: tuple[int, int, int, int] | None = None
    """The part of the image that is meant: left, top, width, height in pixels."""
    licence: str | None = None
    """Of the image, as its publisher writes it; None where the source has one for all."""
    fields: tuple[tuple[str, Any], ...] = ()
    """What else is kept beside the caption."""

    @property
    def identity(self) -> str:
        """The same for all rows of one image."""
        return self.url or next(iter(self.names), self.place)


Found = Row | Skipped
Numbered = tuple[int, Any]
"""An entry of a file, and its number there, from 1."""
Make = Callable[[Any, str], Iterable[Row]]
"""An entry and its place -> its rows."""
Read = Callable[[Sequence[Path]], Iterator[Found]]
"""Files of annotations -> their rows."""


def rows_of(path: Path, entries: Iterable[Numbered | Skipped], make: Make) -> Iterator[Found]:
    """The rows of a file's entries, with a ``Skipped`` in the place of what cannot be read."""
    for entry in entries:
        if isinstance(entry, Skipped):
            yield entry
            continue
        number, content = entry
        try:
            yield from make(content, f"{path.name}:{number}")
        except SampleError as error:
            yield skip(path, number, error)
        except KeyError as error:
            yield skip(path, number, SampleError("field is missing", str(error)))
        except (TypeError, ValueError, AttributeError) as error:
            yield skip(path, number, SampleError("field is malformed", str(error)))


def skip(path: Path, number: int | None, error: SampleError) -> Skipped:
    """A report on an entry, or on what follows in a file."""
    place = path.name if number is None else f"{path.name}:{number}"
    return Skipped(shard=str(path), key=place, reason=error.reason, message=str(error))

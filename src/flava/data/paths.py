"""Where files are: paths with braces and globs, the embedded corpus, images below a folder."""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path

from flava.data.errors import SkippedSample

CORPUS = Path(__file__).parent / "corpus"

_SCHEME = "embedded:"
# What may stand behind the name of a shard in the corpus: `embedded:text/wordnet-train.jsonl`
# finds `wordnet-train.jsonl.gz`.
_SUFFIXES = ("", ".gz")
_SHOWN = 40


def resolve(url: str) -> list[Path]:
    """The files or folders that a shard specification names, in its own order, each once.

    A specification is a path with shell braces (`{a,b}`, `{000..011}`) and globs (`*`, `?`,
    `[0-9]`), or `embedded:` and such a path inside the package's corpus, where a `.gz` behind the
    name need not be written. Every alternative of the braces must name a file; what one glob
    matches is sorted.

    Raises FileNotFoundError, naming what is missing and listing what there is, and ValueError for
    an empty specification or braces that do not close.
    """
    if not url.removeprefix(_SCHEME).strip():
        raise ValueError(f"empty shard specification {url!r}: give a path such as data/*.tar")
    found: dict[Path, None] = {}
    for path in expand_braces(url.removeprefix(_SCHEME)):
        if url.startswith(_SCHEME):
            files = next(filter(None, (_glob(CORPUS / (path + end)) for end in _SUFFIXES)), [])
        else:
            files = _glob(Path(path).expanduser())
        if not files:
            raise FileNotFoundError(_missing(url, path))
        found |= dict.fromkeys(files)
    return list(found)


def expand_braces(text: str) -> list[str]:
    """All alternatives of `{a,b}` and `{01..12}`, the leftmost brace slowest, nested ones too.

    A range counts up or down by one; its numbers are as wide as the wider end if one begins with
    a zero. Braces around a single word stay as they are, as in a shell. Raises ValueError if a
    brace is not closed or not opened.
    """
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            raise ValueError(f"a brace is closed but never opened in the shard spec {text!r}")
    if depth:
        raise ValueError(f"a brace is opened but never closed in the shard spec {text!r}")
    return _expand(text)


def _expand(text: str) -> list[str]:
    start = text.find("{")
    if start < 0:
        return [text]
    stop = _closing(text, start)
    inner, head, tails = text[start + 1 : stop], text[:start], _expand(text[stop + 1 :])
    parts = _split_commas(inner)
    if len(parts) > 1:
        choices: Iterable[str] = [each for part in parts for each in _expand(part)]
    elif bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        choices = _count(bounds[1], bounds[2])
    else:
        choices = [f"{{{each}}}" for each in _expand(inner)]
    return [head + choice + tail for choice in choices for tail in tails]


def _closing(text: str, start: int) -> int:
    depths = accumulate((sign == "{") - (sign == "}") for sign in text[start:])
    return start + list(depths).index(0)


def _split_commas(inner: str) -> list[str]:
    parts, depth = [""], 0
    for sign in inner:
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _count(first: str, last: str) -> Iterator[str]:
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))


def _glob(path: Path) -> list[Path]:
    """The path itself, or what the pattern matches, sorted."""
    if path.exists():
        return [path]
    anchor = Path(path.anchor)
    return sorted(anchor.glob(str(path.relative_to(anchor))))


def _missing(url: str, path: str) -> str:
    said = f"no file {path!r}" + (f" (of {url!r})" if path != url else "")
    if url.startswith(_SCHEME):
        there = sorted(str(file.relative_to(CORPUS)) for file in CORPUS.glob("*/*.gz"))
        return f"{said} in the embedded corpus; there are {_listed(there, CORPUS)}"
    folder = Path(path).expanduser().parent
    while not folder.is_dir():
        folder = folder.parent
    there = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir())
    return f"{said}; {folder.resolve()} holds {_listed(there, folder)}"


def _listed(names: list[str], folder: Path) -> str:
    if not names:
        return f"nothing ({folder} is empty)"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Files that end so are images (``decoding.FORMATS``); a folder's others are passed over."""

Links = frozenset[tuple[int, int]]


def walk_images(folder: Path) -> Iterator[str | SkippedSample]:
    """Paths relative to ``folder``, with "/" between parts, sorted as strings.

    Hidden files and folders are passed over, links are followed. No more than the names of one
    folder and of those above it are held at a time. What cannot be read comes as a
    ``SkippedSample``.
    """
    return _below(folder, "", frozenset())


def _below(folder: Path, prefix: str, above: Links) -> Iterator[str | SkippedSample]:
    try:
        names, here = _names(folder / prefix), _device_and_inode(folder / prefix)
    except OSError as error:
        yield _skipped(folder, prefix, "folder cannot be read", error.strerror or str(error))
        return
    if here in above:
        yield _skipped(folder, prefix, "link leads in a circle", "to a folder above it")
        return
    for name in names:
        if name.endswith("/"):
            yield from _below(folder, prefix + name, above | {here})
        elif name.lower().endswith(FOLDER_SUFFIXES):
            yield _checked(folder, prefix + name)


def _checked(folder: Path, name: str) -> str | SkippedSample:
    if shown(name) != name:
        return _skipped(folder, name, "name is not UTF-8", "rename the file")
    if not (folder / name).is_file():
        return _skipped(folder, name, "not a file", "a link to nothing, or no regular file")
    return name


def _skipped(folder: Path, name: str, reason: str, detail: str) -> SkippedSample:
    message = f"{reason}: {detail}"
    return SkippedSample(shard=str(folder), key=shown(name), reason=reason, message=message)


def _names(folder: Path) -> list[str]:
    """Folders end in "/": so a sorted list of one folder is a part of the sorted list of all."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(".")
        )


def _device_and_inode(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def shown(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 replaced, so that it can be written."""
    return os.fsencode(name).decode(errors="replace")

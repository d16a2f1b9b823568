"""Finds files: paths with braces and globs, the embedded corpus, the images below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from braceexpand import braceexpand

from flava.data.decoding import is_image
from flava.data.errors import SkippedSample

CORPUS = Path(__file__).parent / "corpus"

_SCHEME = "embedded:"
# Endings that the names of the corpus's shards may have beyond what is asked for:
# `embedded:text/wordnet-train.jsonl` finds `wordnet-train.jsonl.gz`.
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

    A range's numbers are as wide as its wider end if one end begins with a zero. Braces around a
    single word stay as they are, as in a shell; a backslash is a character like any other. Raises
    ValueError if a brace is not closed or not opened.
    """
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            raise ValueError(f"a brace is closed but never opened in the shard spec {text!r}")
    if depth:
        raise ValueError(f"a brace is opened but never closed in the shard spec {text!r}")
    return list(braceexpand(text, escape=False))


def _glob(path: Path) -> list[Path]:
    """The path itself, or what the pattern matches, sorted."""
    if path.exists():
        return [path]
    anchor = Path(path.anchor)
    return sorted(anchor.glob(str(path.relative_to(anchor))))


def _missing(url: str, path: str) -> str:
    message = f"no file {path!r}" + (f" (of {url!r})" if path != url else "")
    if url.startswith(_SCHEME):
        there = sorted(str(file.relative_to(CORPUS)) for file in CORPUS.glob("*/*.gz"))
        return f"{message} in the embedded corpus; there are {_listed(there, CORPUS)}"
    folder = Path(path).expanduser().parent
    while not folder.is_dir():
        folder = folder.parent
    there = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir())
    return f"{message}; {folder.resolve()} holds {_listed(there, folder)}"


def _listed(names: list[str], folder: Path) -> str:
    if not names:
        return f"nothing ({folder} is empty)"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


Inodes = frozenset[tuple[int, int]]
"""(device, inode) of some folders."""


def walk_images(folder: Path) -> Iterator[str | SkippedSample]:
    """The images below a folder: paths relative to it, with "/" between parts, sorted as strings.

    Files are images by their names (``is_image``). Hidden files and folders are passed over, links
    are followed. Only the names of one folder and of those above it are in memory at a time. What
    cannot be read comes as a ``SkippedSample``.
    """
    return _below(folder, "", frozenset())


def _below(folder: Path, prefix: str, above: Inodes) -> Iterator[str | SkippedSample]:
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
        elif is_image(name):
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
    """Sorted names; folders end in "/", so that all paths come in their sorted order."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name + "/" * entry.is_dir() for entry in entries if not entry.name.startswith(".")
        )


def _device_and_inode(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def shown(name: str) -> str:
    """A file's name with the bytes that are not UTF-8 replaced, so that it can be written."""
    return os.fsencode(name).decode(errors="replace")

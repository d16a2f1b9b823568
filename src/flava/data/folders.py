"""The images below a folder, in an order that does not depend on the file system."""

import os
from collections.abc import Iterator
from pathlib import Path

from flava.data.errors import Skipped

FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Files that end so are images (``decoding.FORMATS``); a folder's others are passed over."""

Links = frozenset[tuple[int, int]]


def walk_images(folder: Path) -> Iterator[str | Skipped]:
    """Paths relative to ``folder``, with "/" between parts, sorted as strings.

    Hidden files and folders are passed over, links are followed. No more than the names of one
    folder and of those above it are held at a time. What cannot be read comes as a ``Skipped``.
    """
    return _below(folder, "", frozenset())


def _below(folder: Path, prefix: str, above: Links) -> Iterator[str | Skipped]:
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


def _checked(folder: Path, name: str) -> str | Skipped:
    if shown(name) != name:
        return _skipped(folder, name, "name is not UTF-8", "rename the file")
    if not (folder / name).is_file():
        return _skipped(folder, name, "not a file", "a link to nothing, or no regular file")
    return name


def _skipped(folder: Path, name: str, reason: str, detail: str) -> Skipped:
    message = f"{reason}: {detail}"
    return Skipped(shard=str(folder), key=shown(name), reason=reason, message=message)


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

"""Reads the raw samples of shards, with a reader for each kind of shard.

A shard is a file or folder, or the URL of a file: a tar of samples (WebDataset's convention: files
that share a name up to the first dot are one sample), a folder of images, JSON lines with a "text"
field, or plain text with a text a line. What cannot be read comes out as ``SkippedSample`` in its
place, and raises no error.
"""

import errno
import gzip
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from flava.data.errors import SkippedSample
from flava.data.paths import resolve
from flava.data.remote import Shard, is_url, resolve_urls

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
JSON_LINES_SUFFIXES = (".jsonl", ".jsonl.gz")
TEXT_SUFFIXES = (".txt", ".txt.gz")
TAR_BLOCK_BYTES = 512
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
"""Error numbers of a process or system that has too many files open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawSample:
    """A sample before decoding: the bytes of its files by their suffix ("webp", "json", "txt")."""

    shard: str
    key: str
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.files.values()))


def resolve_all(shards: Sequence[str]) -> list[Shard]:
    """Every path or URL that the shard specs name, in order.

    Raises:
        FileNotFoundError: a spec names nothing.
        ValueError: a shard is not of a kind that can be read, or cannot be opened.
        OSError: a URL cannot be read.
    """
    found: list[Shard] = []
    for shard in shards:
        folder = Path(shard).expanduser()
        if is_url(shard):
            found += resolve_urls(shard)
        else:
            found += [folder] if folder.is_dir() else resolve(shard)
    for path in found:
        if path.is_dir():
            continue
        _reader(path)
        if isinstance(path, Path):
            _require_readable(path)
    return found


def _require_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(
            f"shard {path} cannot be opened ({error.strerror}): check its permissions, or "
            f"leave it out of the source's shards"
        ) from error


def read_shard(path: Shard) -> Iterator[RawSample | SkippedSample]:
    """The raw samples of one shard in order, with a ``SkippedSample`` where something cannot be
    read."""
    count = 0
    try:
        for item in _reader(path)(path):
            count += 1
            yield item
    # gzip's CRC or content is wrong, a disk or server fails, the shard was removed meanwhile
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in TOO_MANY_OPEN:
            # The shard is not at fault, and must not be left out.
            raise OSError(
                f"no more files can be opened, and {path} is to be: allow more of them "
                "(ulimit -n), or lower --data.streams"
            ) from error
        yield skip_shard(path, "shard cannot be read", str(error))
        return
    if not count:
        yield skip_shard(path, "shard is empty", "it holds no sample; remove it or write it again")


def skip_shard(path: Shard, reason: str, detail: str) -> SkippedSample:
    """A report on a whole shard."""
    return SkippedSample(shard=str(path), key="", reason=reason, message=f"{reason}: {detail}")


def _reader(path: Shard) -> Callable[[Any], Iterator[RawSample | SkippedSample]]:
    if path.is_dir():
        return _read_folder
    for suffixes, reader in (
        (TAR_SUFFIXES, _read_tar),
        (JSON_LINES_SUFFIXES, _read_json_lines),
        (TEXT_SUFFIXES, _read_text),
    ):
        if path.name.lower().endswith(suffixes):
            return reader
    known = ", ".join(TAR_SUFFIXES + JSON_LINES_SUFFIXES + TEXT_SUFFIXES)
    raise ValueError(f"shard {path} is of an unknown kind: it must be a folder or end in {known}")


def _read_tar(path: Shard) -> Iterator[RawSample | SkippedSample]:
    from webdataset.tariterators import base_plus_ext, tar_file_expander  # needs torch

    errors: list[Exception] = []
    with path.open("rb") as stream:
        files = tar_file_expander([{"url": str(path), "stream": stream}], _collector(errors))
        damaged = yield from _grouped(path, files, base_plus_ext, errors)
        # `tarfile` takes a tar that breaks off between two files to be whole.
        if not damaged and path.suffix == ".tar" and not _has_end_mark(stream):
            yield skip_shard(path, "shard is damaged", "it breaks off: a tar ends in a zero block")


def _has_end_mark(tar: BufferedReader) -> bool:
    tar.seek(-TAR_BLOCK_BYTES, os.SEEK_END)
    return not any(tar.read())


def _read_folder(path: Path) -> Iterator[RawSample | SkippedSample]:
    errors: list[Exception] = []

    def files() -> Iterator[dict[str, Any]]:
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in name.parts):
                continue
            try:
                data = file.read_bytes()
            except OSError as error:
                if error.errno in TOO_MANY_OPEN:
                    raise
                errors.append(OSError(f"{name}: {error.strerror}"))
                continue
            yield {"fname": name.as_posix(), "data": data, "__url__": str(path)}

    def by_last_dot(name: str) -> tuple[str, str]:
        stem, _, suffix = name.rpartition(".")
        return stem, suffix

    yield from _grouped(path, files(), by_last_dot, errors)


def _grouped(
    path: Shard,
    files: Iterable[dict[str, Any]],
    keys: Callable[[str], Any],
    errors: list[Exception],
) -> Generator[RawSample | SkippedSample, None, bool]:
    """Files grouped into samples, with reports on errors in their place.

    Returns whether there were errors.
    """
    from webdataset.tariterators import group_by_keys  # needs torch

    damaged = False
    for sample in group_by_keys(files, keys, handler=_collector(errors)):
        parts = {name: data for name, data in sample.items() if not name.startswith("__")}
        yield RawSample(shard=path.name, key=sample["__key__"], files=parts)
        damaged |= bool(errors)
        yield from _reported(path, errors)
    damaged |= bool(errors)
    yield from _reported(path, errors)
    return damaged


def _reported(path: Shard, errors: list[Exception]) -> Iterator[SkippedSample]:
    while errors:
        yield skip_shard(path, "shard is damaged", _message(errors.pop(0)))


def _collector(errors: list[Exception]) -> Callable[[Exception], bool]:
    """A handler for WebDataset: keep the error and go on."""

    def collect(error: Exception) -> bool:
        errors.append(error)
        return True

    return collect


def _message(error: Exception) -> str:
    """The message of an error, without the streams and paths that WebDataset appends to it."""
    return str(error.args[0]) if error.args else type(error).__name__


def _read_json_lines(path: Shard) -> Iterator[RawSample]:
    return _read_lines(path, "json")


def _read_text(path: Shard) -> Iterator[RawSample]:
    return _read_lines(path, "txt")


def _read_lines(path: Shard, suffix: str) -> Iterator[RawSample]:
    is_packed = path.suffix.lower() == ".gz"
    with path.open("rb") as file, gzip.open(file) if is_packed else file as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield RawSample(shard=path.name, key=f"{path.name}:{number}", files={suffix: line})


def read_range(path: Path, start: int, size: int) -> bytes:
    """``size`` bytes of a file from byte ``start`` on.

    Raises:
        OSError: the file is shorter.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        found = file.read(size)
    if len(found) != size:
        raise OSError(errno.EIO, "file is shorter than it was written", str(path))
    return found

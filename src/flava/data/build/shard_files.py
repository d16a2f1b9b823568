"""Shards written and read again: tars and JSON lines, the same bytes each time."""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from flava.files import whole_file

Files = Sequence[tuple[str, bytes]]
"""A sample: its files by suffix, in order. In JSON lines it is one, its line."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that is whole."""

    bytes: int
    sha256: str


class _Hashed:
    """A file that is written from front to back, and hashed as it is."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        self.size, self.digest = 0, hashlib.sha256()
        self._file = self.partial.open("wb")

    def tell(self) -> int:
        return self.size

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        with naming(self.path):
            return self._file.write(data)

    def commit(self) -> Written:
        with naming(self.path):
            self._file.close()
        self.partial.replace(self.path)
        return Written(bytes=self.size, sha256=self.digest.hexdigest())

    def drop(self) -> None:
        with suppress(OSError):  # on a full disk there is no place for what it still holds
            self._file.close()
        self.partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors name the file that could not be written, which those of an open file do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class TarWriter:
    """A tar without times, owners or anything else that differs from one run to another."""

    def __init__(self, path: Path) -> None:
        self._file = _Hashed(path)
        stream = cast(IO[bytes], self._file)
        self._tar = tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, key: str, files: Files) -> None:
        for suffix, data in files:
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))

    def finish(self) -> Written:
        """Only now is the file there."""
        self._tar.close()
        return self._file.commit()

    def drop(self) -> None:
        """Leave nothing of a file that is not finished."""
        self._file.drop()


class LinesWriter:
    """JSON lines; keys are not written."""

    def __init__(self, path: Path) -> None:
        self._file = _Hashed(path)

    def add(self, key: str, files: Files) -> None:  # noqa: ARG002
        for _, data in files:
            self._file.write(data + b"\n")

    def finish(self) -> Written:
        return self._file.commit()

    def drop(self) -> None:
        self._file.drop()


WRITERS: dict[str, type[TarWriter] | type[LinesWriter]] = {
    ".tar": TarWriter,
    ".jsonl": LinesWriter,
}


def read_back(path: Path) -> Iterator[tuple[str, Files]]:
    """The samples of a shard that a writer wrote, with their keys."""
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines):
                yield f"{number}", [("json", line.removesuffix(b"\n"))]
        return
    key, files = "", []
    with tarfile.open(path, "r|") as tar:
        for entry in tar:
            name, _, suffix = entry.name.partition(".")
            if files and name != key:
                yield key, files
                files = []
            content = tar.extractfile(entry)
            assert content is not None
            key = name
            files.append((suffix, content.read()))
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
    if files:
        yield key, files


def write_whole(path: Path, content: bytes) -> None:
    """A small file, there whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def save(path: Path, values: np.ndarray) -> None:
    """An array as .npy, there whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, values)
    write_whole(path, stream.getvalue())

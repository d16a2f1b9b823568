"""Samples shuffled and written to shards: tars and JSON lines, the same bytes each time.

A Feistel network permutes all numbers of an even number of bits: their halves take turns, and each
turn changes one half by what a hash makes of the other, which can be undone whatever the hash is.
A number that comes out beyond the samples goes in again until it is one of them (cycle walking,
Black and Rogaway 2002), which leaves a permutation of the samples. So any place of the order is
computed by itself, in no memory, by any process.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt64

from flava.core.files import atomic_file
from flava.prepare.duplicates import mixed

SEED = 0
"""Of the order of a build's samples, together with the name of the source."""
ROUNDS = 8
"""Turns; three are enough to look random where the hash is good (Luby and Rackoff 1988)."""
UPPER = np.uint64(32)
"""Bits of a hash that are not used: the upper ones are as good, and enough for a half."""


@dataclass(frozen=True)
class Permutation:
    """Which of ``size`` samples stands at a place; ``name`` stands for one permutation of many."""

    size: int
    name: str

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The samples at these places, all of them from 0 to ``size`` - 1."""
        found = self._permuted(places.astype(np.uint64))
        while (beyond := np.flatnonzero(found >= np.uint64(self.size))).size:
            found[beyond] = self._permuted(found[beyond])
        return found.astype(np.int64)

    def _permuted(self, values: UInt64[np.ndarray, " values"]) -> UInt64[np.ndarray, " values"]:
        """Each as another number of the fewest bits that all samples need, an even number."""
        bits = max(1, ((self.size - 1).bit_length() + 1) // 2)
        half, mask = np.uint64(bits), np.uint64(2**bits - 1)
        left, right = values >> half, values & mask
        for key in self._keys():
            left, right = right, left ^ ((mixed(right ^ key) >> UPPER) & mask)
        return (left << half) | right

    def _keys(self) -> UInt64[np.ndarray, " rounds"]:
        digest = hashlib.blake2b(f"{SEED} {self.name}".encode(), digest_size=8 * ROUNDS).digest()
        return np.frombuffer(digest, "<u8").astype(np.uint64)


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

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        with naming(self.path):
            self._file.write(data)

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


class ShardWriter:
    """A shard, sample by sample; nothing of it is there before it is whole."""

    def __init__(self, path: Path) -> None:
        self._file, self._form = _Hashed(path), FORMS[path.suffix]

    def add(self, key: str, files: Files) -> tuple[int, int]:
        """Write a sample; where it begins in the shard, and its bytes."""
        start = self._file.size
        for piece in self._form.sample(key, files):
            self._file.write(piece)
        return start, self._file.size - start

    def append(self, sample: bytes) -> None:
        """Write the bytes that ``add`` wrote to another shard of the same form."""
        self._file.write(sample)

    def finish(self) -> Written:
        """Only now is the file there."""
        self._file.write(self._form.end(self._file.size))
        return self._file.commit()

    def drop(self) -> None:
        """Leave nothing of a file that is not finished."""
        self._file.drop()


def tar_sample(key: str, files: Files) -> Iterator[bytes]:
    """Entries without times, owners or anything else that differs from one run to another."""
    for suffix, data in files:
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size = len(data)
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        yield data
        yield bytes(-len(data) % tarfile.BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """Two empty blocks, and more until the tar consists of whole records."""
    mark = 2 * tarfile.BLOCKSIZE
    return bytes(mark + -(size + mark) % tarfile.RECORDSIZE)


def line_sample(_key: str, files: Files) -> Iterator[bytes]:
    """A line; keys are not written."""
    for _, data in files:
        yield data + b"\n"


def no_end(_size: int) -> bytes:
    """Lines end where the file ends."""
    return b""


@dataclass(frozen=True)
class Form:
    """How samples are written one behind another."""

    sample: Callable[[str, Files], Iterator[bytes]]
    end: Callable[[int], bytes]
    """What stands behind so many bytes of samples."""


FORMS = {".tar": Form(tar_sample, tar_end), ".jsonl": Form(line_sample, no_end)}
"""By the ending of the shard's name."""


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
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def save(path: Path, values: np.ndarray) -> None:
    """An array as .npy, there whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, values)
    write_whole(path, stream.getvalue())

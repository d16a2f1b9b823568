"""Writes samples to shards (tars and JSON lines), in a random order that any process can compute.

The order is a permutation by a Feistel network, which permutes all numbers of an even number of
bits: in each round the halves change places, and one of them is changed by a hash of the other,
which can be undone whatever the hash is. A number that comes out beyond the last sample goes in
again until it is a sample's (cycle walking, Black and Rogaway 2002), so that the samples are
permuted among themselves. Any part of the order is computed by itself, by any process, and nothing
is kept in memory.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64, UInt64

from flava.core.files import atomic_file, write_error
from flava.prepare.duplicates import mix_bits

SEED = 0
"""With the name of the source, this decides the order of a build's samples."""
ROUNDS = 8
"""Rounds of the network; three look random if the hash is good (Luby and Rackoff 1988)."""
UPPER = np.uint64(32)
"""Only the upper 32 bits of a hash are used: they are enough for one half."""


@dataclass(frozen=True)
class Permutation:
    """A random order of ``size`` samples; ``name`` tells one order from others of that size."""

    size: int
    name: str

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The samples that come at these places of the order; both are 0 to ``size`` - 1."""
        samples = self._permuted(places.astype(np.uint64))
        while (beyond := np.flatnonzero(samples >= np.uint64(self.size))).size:
            samples[beyond] = self._permuted(samples[beyond])
        return samples.astype(np.int64)

    def _permuted(self, values: UInt64[np.ndarray, " values"]) -> UInt64[np.ndarray, " values"]:
        """The numbers permuted among all numbers of the fewest, even number of bits."""
        bits = max(1, ((self.size - 1).bit_length() + 1) // 2)
        half, mask = np.uint64(bits), np.uint64(2**bits - 1)
        left, right = values >> half, values & mask
        for key in self._keys():
            left, right = right, left ^ ((mix_bits(right ^ key) >> UPPER) & mask)
        return (left << half) | right

    def _keys(self) -> UInt64[np.ndarray, " rounds"]:
        """A key for the hash of each round."""
        digest = hashlib.blake2b(f"{SEED} {self.name}".encode(), digest_size=8 * ROUNDS).digest()
        return np.frombuffer(digest, "<u8").astype(np.uint64)


SampleFiles = Sequence[tuple[str, bytes]]
"""A sample's files in order: (suffix, content). In JSON lines a sample is one file, its line."""


class ShardWriter:
    """Writes samples to a shard's file, and hashes what it writes; ``open_shard`` makes it."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.size = 0
        """Bytes written so far."""
        self._path, self._file, self._format = path, file, FORMATS[path.suffix]
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of all that was written, in hexadecimal."""
        return self._digest.hexdigest()

    def add(self, key: str, files: SampleFiles) -> tuple[int, int]:
        """Write a sample; returns the byte at which it begins in the shard, and its bytes."""
        start = self.size
        for piece in self._format.sample(key, files):
            self.append(piece)
        return start, self.size - start

    def append(self, data: bytes) -> None:
        """Write bytes, such as a whole sample copied from another shard of the same format."""
        self._digest.update(data)
        self.size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise write_error(self._path, error) from error

    def finish(self) -> None:
        """Write what ends a shard of this format, and close the file."""
        self.append(self._format.end(self.size))
        try:
            self._file.close()
        except OSError as error:
            raise write_error(self._path, error) from error


@contextmanager
def open_shard(path: Path) -> Iterator[ShardWriter]:
    """A shard to write to, which is finished and in its place when the block ends well.

    Otherwise nothing of it is left.

    Raises:
        OSError: it could not be written.
    """
    with atomic_file(path) as partial:
        file = partial.open("wb")
        try:
            writer = ShardWriter(path, file)
            yield writer
            writer.finish()
        finally:
            with suppress(OSError):  # a full disk has no room for what the buffer still holds
                file.close()


def _tar_sample(key: str, files: SampleFiles) -> Iterator[bytes]:
    """Tar entries without times, owners or anything else that differs between two runs."""
    for suffix, data in files:
        entry = tarfile.TarInfo(f"{key}.{suffix}")
        entry.size = len(data)
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        yield data
        yield bytes(-len(data) % tarfile.BLOCKSIZE)


def _tar_end(size: int) -> bytes:
    """Two blocks of zeros, and more until the tar consists of whole records."""
    end_mark = 2 * tarfile.BLOCKSIZE
    return bytes(end_mark + -(size + end_mark) % tarfile.RECORDSIZE)


def _line_sample(_key: str, files: SampleFiles) -> Iterator[bytes]:
    """A line; the key is not written."""
    for _, data in files:
        yield data + b"\n"


def _no_end(_size: int) -> bytes:
    """Nothing: JSON lines need no end mark."""
    return b""


@dataclass(frozen=True)
class ShardFormat:
    """How samples are written one behind another."""

    sample: Callable[[str, SampleFiles], Iterator[bytes]]
    """A sample's key and files -> its bytes in the shard, in pieces."""
    end: Callable[[int], bytes]
    """The size of all samples in bytes -> what is written behind them."""


FORMATS = {".tar": ShardFormat(_tar_sample, _tar_end), ".jsonl": ShardFormat(_line_sample, _no_end)}
"""By the ending of the shard's name."""


def read_back(path: Path) -> Iterator[tuple[str, SampleFiles]]:
    """The samples of a shard that ``open_shard`` wrote, with their keys."""
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

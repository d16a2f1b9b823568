"""Shards at URLs, read block by block through fsspec, with retries.

Each block is a request of its own for a range of the shard, so no connection stays open while the
run works on what it has read.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from flava.data.paths import expand_braces

BLOCK_BYTES = 2 * 2**20
"""Size of a request: large enough to be worth a request, small enough for many streams."""
WAITS = (0.5, 2.0, 8.0)
"""Seconds to wait before each retry."""
EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extra of this package that installs what reads a scheme."""

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A shard's URL, with those properties and methods of a path that the readers use."""

    url: str

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def name(self) -> str:
        """The file's name."""
        is_web = self.scheme in ("http", "https")  # elsewhere "?" is a part of the name
        return PurePosixPath(urlsplit(self.url).path if is_web else self.url).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def is_dir(self) -> bool:
        """False: a URL stands for a file."""
        return False

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The shard as a file opened for reading.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it cannot be read, after some tries.
        """
        assert mode == "rb"
        return io.BufferedReader(_Blocks(self), BLOCK_BYTES)

    def __str__(self) -> str:
        return self.url


Shard = Path | Remote
"""Where a shard is."""


def is_url(shard: str) -> bool:
    """Whether a shard specification is a URL."""
    return "://" in shard


def resolve_urls(url: str) -> list[Remote]:
    """The shards of a URL with shell braces, in order; except for http and https, globs work too.

    One byte of the first shard is read, so that a wrong address is found before a run begins.

    Raises:
        FileNotFoundError: it is not there, or the glob matches nothing.
        ValueError: the scheme is unknown, or what reads it is not installed.
        OSError: it cannot be read.
    """
    _require(Remote(url))
    shards = [Remote(each) for one in expand_braces(url) for each in _glob(one)]
    if not shards:
        raise FileNotFoundError(f"no shard matches {url!r}")
    _probe(shards[0])
    return shards


def _require(remote: Remote) -> None:
    try:
        fsspec.get_filesystem_class(remote.scheme)
    except ImportError as error:
        extra = EXTRAS.get(remote.scheme)
        remedy = f"pip install 'flava[{extra}]'" if extra else str(error)
        raise ValueError(
            f"shard {remote}: {remote.scheme} needs another package: {remedy}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"shard {remote}: there is no scheme {remote.scheme!r}: use a path, https://, s3://, "
            "gs:// or another one of fsspec's"
        ) from error


def _glob(url: str) -> list[str]:
    if Remote(url).scheme in ("http", "https") or not any(sign in url for sign in "*?["):
        return [url]
    scheme = Remote(url).scheme
    return sorted(f"{scheme}://{name}" for name in fsspec.filesystem(scheme).glob(url))


@cache
def _probe(remote: Remote) -> None:
    # A single byte, because a server that does not know ranges sends more and so gives itself away.
    _Blocks(remote).read(1)


class _Blocks(io.RawIOBase):
    """A remote file: a request for each read."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._position = remote, 0
        self._size = _retried(remote, self._find_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError(f"{self._remote}: no position {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        start = self._position
        end = min(start + len(buffer), self._size)
        if start >= end:
            return 0
        data = _retried(self._remote, lambda: self._fetch(start, end))
        memoryview(buffer)[: len(data)] = data
        self._position = end
        return len(data)

    def _find_size(self) -> int:
        size = _filesystem(self._remote).size(self._remote.url)
        if size is None:
            raise OSError("the server does not tell its size")
        return size

    def _fetch(self, start: int, end: int) -> bytes:
        data = _filesystem(self._remote).cat_file(self._remote.url, start=start, end=end)
        assert isinstance(data, bytes)
        if len(data) > end - start:
            raise _NoRangesError(
                f"{self._remote}: the server sends whole files only: use one that answers requests "
                "for ranges, as object stores, nginx and Caddy do"
            )
        if len(data) < end - start:
            raise OSError(f"{len(data)} bytes came in place of {end - start}")
        return data


class _NoRangesError(OSError):
    """The server sends no ranges: trying again does not help."""


def _filesystem(remote: Remote) -> fsspec.AbstractFileSystem:
    """The file system of a scheme, of which fsspec keeps one in each process."""
    return fsspec.filesystem(remote.scheme)


def _retried(remote: Remote, request: Callable[[], T]) -> T:
    for wait in (*WAITS, None):
        try:
            return request()
        except (FileNotFoundError, PermissionError, _NoRangesError):
            raise
        # The file systems of fsspec use different clients, each with errors of its own.
        except Exception as error:
            if wait is None:
                raise OSError(
                    f"{remote} cannot be read after {len(WAITS) + 1} tries "
                    f"({type(error).__name__}: {error})"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")

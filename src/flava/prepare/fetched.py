"""Checks which URLs may be fetched, and finds the images that img2dataset fetched by their URL.

Its output format "webdataset": ``00000.tar`` holds KEY.jpg, KEY.txt and KEY.json, ``00000.parquet``
a row for every URL that was tried, with the columns url, key, status and error_message.
"""

import ipaddress
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq

from flava.core.files import save_array, write_atomically
from flava.data.decoding import is_image
from flava.data.errors import SampleError
from flava.prepare.duplicates import hash64
from flava.prepare.rows import AnnotationRow

LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of host names that no public server has (RFC 6761, 6762, 8375; and common use)."""


def check_url(url: object) -> str:
    """The URL itself.

    Raises:
        SampleError: its scheme is not http or https, or its host is on no public network. Names
            are not resolved: who fetches must do that.
    """
    if not isinstance(url, str) or not url.strip():
        raise SampleError("URL is missing", type(url).__name__)
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
    except ValueError as error:
        raise SampleError("URL is malformed", f"{url[:200]} ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise SampleError("URL is not http or https", url[:200])
    if not host:
        raise SampleError("URL is malformed", f"{url[:200]} (no host)")
    if host == "localhost" or host.endswith(LOCAL_NAMES) or not _is_public(host):
        raise SampleError("URL is of a private address", url[:200])
    return url


def _is_public(host: str) -> bool:
    """Whether a host is on the public network: addresses are looked at, names are assumed to be."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        # The C library takes 127.1, 0x7f000001 and 2130706433 for addresses too.
        last = host.rstrip(".").rpartition(".")[2].lower()
        return not (last.isdigit() or last.startswith("0x"))


SUCCESS = "success"
"""img2dataset's status of an image that it fetched."""
FILE_RANGE = np.dtype([("start", "<i8"), ("size", "<u4"), ("tar", "<u4")])
"""Where an image file begins in its tar, its bytes, and the number of the tar. Of an image that was
not fetched the start is -1 less the number of its status."""
URLS, RANGES, TARS, STATUSES = "urls.npy", "ranges.npy", "tars.txt", "statuses.txt"
"""The files of the index."""


def is_fetched(folder: Path) -> bool:
    """Whether a folder is an output of img2dataset."""
    return any(path.with_suffix(".tar").exists() for path in folder.glob("*.parquet"))


def index_fetched(folder: Path, index: Path) -> None:
    """Write an index of all URLs that were tried, 24 bytes each, sorted by hash.

    Raises:
        ValueError: a Parquet lacks the columns, or was written for another output format.
    """
    tars, statuses = [], [SUCCESS]
    urls: list[np.ndarray] = []
    ranges: list[np.ndarray] = []
    for number, parquet in enumerate(sorted(folder.glob("*.parquet"))):
        tar = parquet.with_suffix(".tar")
        tars.append(tar.name)
        files = dict(_images_in_tar(tar)) if tar.exists() else {}
        rows = pq.read_metadata(parquet).num_rows
        urls.append(np.zeros(rows, np.uint64))
        ranges.append(np.zeros(rows, FILE_RANGE))
        for row, (url, key, status) in enumerate(_fetch_results(parquet)):
            if status == SUCCESS and key not in files:
                status = "not in its tar"
            if status not in statuses:
                statuses.append(status)
            start, size = files.get(key, (0, 0))
            if status != SUCCESS:
                start, size = -1 - statuses.index(status), 0
            urls[-1][row], ranges[-1][row] = _url_hash(url), (start, size, number)
    all_urls, all_ranges = np.concatenate(urls), np.concatenate(ranges)
    # Of a URL that was tried twice the entry that succeeded comes first.
    order = np.lexsort((all_ranges["tar"], all_ranges["start"] < 0, all_urls))
    index.mkdir(parents=True, exist_ok=True)
    save_array(index / RANGES, all_ranges[order])
    write_atomically(index / TARS, "\n".join(tars).encode())
    write_atomically(index / STATUSES, "\n".join(statuses).encode())
    save_array(index / URLS, all_urls[order])  # written last, so that it stands for a whole index


def _fetch_results(parquet: Path) -> Iterator[tuple[str, str, str]]:
    """(URL, key, status) of each row."""
    file = pq.ParquetFile(parquet)
    names = ["url", "key", "status"]
    if missing := [name for name in names if name not in file.schema_arrow.names]:
        raise ValueError(
            f"{parquet} has no column {', '.join(missing)}: --images takes a folder of image "
            "files, or an output of img2dataset --output_format webdataset"
        )
    for batch in file.iter_batches(columns=names):
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def _images_in_tar(tar: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """(key, (start of its image in the tar, its bytes)); links and devices are passed over."""
    with tarfile.open(tar, "r:") as opened:
        for entry in opened:
            path = Path(entry.name)
            if entry.isfile() and is_image(path.name):
                yield path.stem, (entry.offset_data, entry.size)
            opened.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _url_hash(url: str) -> int:
    return hash64(url.encode(errors="surrogateescape"))


class Fetched:
    """Images by URL. The index is mapped into memory, so that all processes share it."""

    def __init__(self, folder: Path, index: Path) -> None:
        self._urls = np.load(index / URLS, mmap_mode="r")
        self._ranges = np.load(index / RANGES, mmap_mode="r")
        self._tars = [folder / name for name in (index / TARS).read_text().split("\n")]
        self._statuses = (index / STATUSES).read_text().split("\n")

    def read(self, row: AnnotationRow) -> bytes:
        """The row's image file.

        Raises:
            SampleError: it was not fetched.
        """
        if row.url is None:
            raise SampleError("image is not there", "the row has no URL, and img2dataset's have")
        url = _url_hash(row.url)
        entry = int(np.searchsorted(self._urls, np.uint64(url)))
        if entry == len(self._urls) or int(self._urls[entry]) != url:
            raise SampleError("image was not fetched: not tried", row.url[:200])
        start, size, number = self._ranges[entry].item()
        if start < 0:
            raise SampleError(f"image was not fetched: {self._statuses[-1 - start]}", row.url[:200])
        with self._tars[number].open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

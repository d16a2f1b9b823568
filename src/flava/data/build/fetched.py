"""What img2dataset fetched: its tars and the Parquet beside each, found by URL.

Its output format "webdataset": ``00000.tar`` holds KEY.jpg, KEY.txt and KEY.json, ``00000.parquet``
a row for every URL that was tried, with the columns url, key, status and error_message.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flava.data.build.duplicates import hash_of
from flava.data.build.rows import Row
from flava.data.build.shard_files import save, write_whole
from flava.data.errors import SampleError

SUCCESS = "success"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PLACE = np.dtype([("start", "<i8"), ("size", "<u4"), ("tar", "<u4")])
"""Where a file begins in a tar, or -1 less the number of its status; its bytes; which tar."""
URLS, PLACES, TARS, STATUSES = "urls.npy", "places.npy", "tars.txt", "statuses.txt"


def is_fetched(folder: Path) -> bool:
    """Whether a folder is an output of img2dataset."""
    return any(path.with_suffix(".tar").exists() for path in folder.glob("*.parquet"))


def index_fetched(folder: Path, index: Path) -> None:
    """Write the table of URLs, 24 bytes each, sorted by hash.

    Raises:
        ValueError: a Parquet lacks the columns, or was written for another output format.
    """
    tars, statuses = [], [SUCCESS]
    urls: list[np.ndarray] = []
    places: list[np.ndarray] = []
    for number, parquet in enumerate(sorted(folder.glob("*.parquet"))):
        tar = parquet.with_suffix(".tar")
        tars.append(tar.name)
        files = dict(members(tar)) if tar.exists() else {}
        rows = pq.read_metadata(parquet).num_rows
        urls.append(np.zeros(rows, np.uint64))
        places.append(np.zeros(rows, PLACE))
        for row, (url, key, status) in enumerate(listed(parquet)):
            if status == SUCCESS and key not in files:
                status = "not in its tar"
            if status not in statuses:
                statuses.append(status)
            start, size = files.get(key, (0, 0))
            if status != SUCCESS:
                start, size = -1 - statuses.index(status), 0
            urls[-1][row], places[-1][row] = hashed(url), (start, size, number)
    every, place = np.concatenate(urls), np.concatenate(places)
    # Of a URL that was tried twice the entry that succeeded comes first.
    order = np.lexsort((place["tar"], place["start"] < 0, every))
    index.mkdir(parents=True, exist_ok=True)
    save(index / PLACES, place[order])
    write_whole(index / TARS, "\n".join(tars).encode())
    write_whole(index / STATUSES, "\n".join(statuses).encode())
    save(index / URLS, every[order])  # the last: it tells that all are there


def listed(parquet: Path) -> Iterator[tuple[str, str, str]]:
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


def members(tar: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Key -> where its image begins in the tar, and its bytes; only plain files."""
    with tarfile.open(tar, "r:") as opened:
        for entry in opened:
            path = Path(entry.name)
            if entry.isfile() and path.suffix.lower() in IMAGE_SUFFIXES:
                yield path.stem, (entry.offset_data, entry.size)
            opened.members = []  # pyright: ignore[reportAttributeAccessIssue]


def hashed(url: str) -> int:
    return hash_of(url.encode(errors="surrogateescape"))


class Fetched:
    """Images by URL. The table is mapped, so that processes of one machine share it."""

    def __init__(self, folder: Path, index: Path) -> None:
        self._urls = np.load(index / URLS, mmap_mode="r")
        self._places = np.load(index / PLACES, mmap_mode="r")
        self._tars = [folder / name for name in (index / TARS).read_text().split("\n")]
        self._statuses = (index / STATUSES).read_text().split("\n")

    def read(self, row: Row) -> bytes:
        """The row's image file.

        Raises:
            SampleError: it was not fetched.
        """
        if row.url is None:
            raise SampleError("image is not there", "the row has no URL, and img2dataset's have")
        url = hashed(row.url)
        place = int(np.searchsorted(self._urls, np.uint64(url)))
        if place == len(self._urls) or int(self._urls[place]) != url:
            raise SampleError("image was not fetched: not tried", row.url[:200])
        start, size, number = self._places[place].item()
        if start < 0:
            raise SampleError(f"image was not fetched: {self._statuses[-1 - start]}", row.url[:200])
        with self._tars[number].open("rb") as tar:
            tar.seek(start)
            return tar.read(size)

"""Shards behind a URL, from a server on this machine that fails as servers do."""

import gzip
import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from flava.data import remote
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.errors import SkippedSample
from flava.data.loader import Loader
from flava.data.remote import Remote
from flava.data.shards import RawSample, read_shard, resolve_all
from tests.data.shard_files import pair_files, write_lines, write_tar

Failure = Callable[[BaseHTTPRequestHandler, bytes], None]


@dataclass
class Server:
    """What a server sends, and how it fails: each failure in turn, then no more."""

    url: str
    folder: Path
    failures: list[Failure] = field(default_factory=list)
    ranges: bool = True
    requests: Counter[str] = field(default_factory=Counter)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests[handler.command] += 1
        file = self.folder / handler.path.partition("?")[0].lstrip("/")
        if not file.is_file():
            handler.send_error(404)
            return
        data = file.read_bytes()
        asked = handler.headers.get("Range")
        if handler.command == "GET" and self.failures:
            self.failures.pop(0)(handler, data)
            return
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last) + 1]
            send(handler, part, 206, f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        else:
            send(handler, data, 200)


def send(handler: BaseHTTPRequestHandler, data: bytes, status: int, part: str = "") -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("Accept-Ranges", "bytes")
    if part:
        handler.send_header("Content-Range", part)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(data)


def is_overloaded(handler: BaseHTTPRequestHandler, _data: bytes) -> None:
    handler.send_error(503)


def breaks_off(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(206)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def hangs_up(handler: BaseHTTPRequestHandler, _data: bytes) -> None:
    handler.connection.close()
    handler.close_connection = True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def do_HEAD(self) -> None:
            state.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state = Server(f"http://127.0.0.1:{httpd.server_port}", folder)
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture
def shard(server: Server) -> Remote:
    """A tar that is also there as a file."""
    write_tar(server.folder / "0.tar", pair_files(range(40)))
    return Remote(f"{server.url}/0.tar")


def read(path: Path | Remote) -> list[tuple[str, dict[str, bytes]]]:
    items = list(read_shard(path))
    assert all(isinstance(item, RawSample) for item in items)
    return [(item.key, item.files) for item in items if isinstance(item, RawSample)]


@pytest.mark.parametrize("block", [1_000, remote.BLOCK_BYTES])
def test_a_shard_is_the_same_from_a_url_as_from_a_file(server, shard, monkeypatch, block):
    monkeypatch.setattr(remote, "BLOCK_BYTES", block)
    assert read(shard) == read(server.folder / "0.tar")
    assert (server.requests["GET"] > 10) == (block == 1_000)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.jsonl", "a.txt.gz"])
def test_so_are_the_other_kinds(server, name):
    path = server.folder / name
    if "tar" in name:
        write_tar(path, pair_files(range(4)))
    elif name.endswith("gz"):
        path.write_bytes(gzip.compress(b"one\ntwo\n"))
    else:
        write_lines(path, ["one", "two"])
    assert read(Remote(f"{server.url}/{name}")) == read(path)


@pytest.mark.parametrize("failure", [is_overloaded, breaks_off, hangs_up])
@pytest.mark.parametrize("at", [0, 3])
def test_what_breaks_is_tried_again(server, shard, monkeypatch, failure, at):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 2_000)
    items = read_shard(shard)
    found = [item.key for item in itertools.islice(items, at) if isinstance(item, RawSample)]
    server.failures = [failure] * 3
    found += [item.key for item in items if isinstance(item, RawSample)]
    assert found == [f"{n:05d}" for n in range(40)]
    assert not server.failures


def test_what_stays_broken_is_reported_in_its_place(server, shard, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 2_000)
    items = read_shard(shard)
    before = list(itertools.islice(items, 3))
    server.failures = [is_overloaded] * 100
    after = list(items)
    reports = [item for item in after if isinstance(item, SkippedSample)]
    assert before
    assert all(isinstance(item, RawSample) for item in before)
    assert after[-len(reports) :] == reports
    for report in reports:
        assert "0.tar cannot be read after 4 tries" in report.message
        assert "503" in report.message


def test_a_file_that_is_not_there_is_not_tried_again(server):
    (item,) = read_shard(Remote(f"{server.url}/none.tar"))
    assert isinstance(item, SkippedSample)
    assert server.requests.total() <= 2


def test_a_run_goes_on_when_a_shard_disappears(server):
    """Its samples are reported, and those of the other shards take their places."""
    for number in range(3):
        write_lines(server.folder / f"{number}.jsonl", [f"text {number} {n}" for n in range(20)])
    source = SourceConfig(shards=(f"{server.url}/{{0..2}}.jsonl",), weight=1.0, batch_size=6)
    config = DataConfig(text=source, workers=0)
    with Loader(config, seed=0) as loader:
        next(loader)
        (server.folder / "1.jsonl").unlink()
        keys = {key for _ in range(30) for key in next(loader).keys}
        assert set(loader.skipped["text"]) == {"shard cannot be read"}
    assert {key.partition(":")[0] for key in keys} >= {"0.jsonl", "2.jsonl"}


# At the start


def test_braces_make_urls_in_order(server):
    write_lines(server.folder / "08.jsonl", ["a"])
    found = resolve_all([f"{server.url}/{{08..11}}.jsonl?version=1"])
    assert [path.name for path in found] == ["08.jsonl", "09.jsonl", "10.jsonl", "11.jsonl"]
    assert str(found[0]) == f"{server.url}/08.jsonl?version=1"


def test_globs_are_matched_where_files_can_be_listed():
    files = fsspec.filesystem("memory")
    for name in ("b", "a"):
        files.pipe(f"/globbed/{name}.txt", b"one\n")
    found = resolve_all(["memory://globbed/*.txt"])
    assert [path.name for path in found] == ["a.txt", "b.txt"]
    assert read(Remote(str(found[0])))
    with pytest.raises(FileNotFoundError, match=r"no shard matches 'memory://globbed/\*\.tar'"):
        resolve_all(["memory://globbed/*.tar"])


def test_what_cannot_be_read_is_refused_with_the_remedy(server):
    write_lines(server.folder / "a.jsonl", ["a"])
    write_lines(server.folder / "a.csv", ["a"])
    for url, message in {
        "htps://host/a.tar": "there is no scheme 'htps': use a path, https://",
        "gs://bucket/a.tar": r"gs needs another package: pip install 'flava\[gcs\]'",
        f"{server.url}/a.csv": "is of an unknown kind",
        f"{server.url}/{{0..2.tar": "a brace is opened but never closed",
        f"{server.url}/none.tar": "none.tar",
    }.items():
        source = SourceConfig(shards=(url,), weight=1.0, batch_size=1)
        (problem,) = DataConfig(text=source).problems()
        assert problem.startswith("text.shards: ")
        assert re.search(message, problem)
    server.ranges = False
    remote._probe.cache_clear()
    with pytest.raises(OSError, match="sends whole files only: use one that answers"):
        resolve_all([f"{server.url}/a.jsonl"])

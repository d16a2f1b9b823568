from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flava.prepare.sources import SOURCES
from tests.commands import Command, in_this_process
from tests.prepare import published_files
from tests.prepare.made import captions, write_pairs


@pytest.fixture
def flava(capsys: pytest.CaptureFixture[str]) -> Command:
    return in_this_process(capsys)


def test_every_source_is_listed_with_its_licence(flava: Command) -> None:
    ended = flava("data", "sources")
    assert ended.status == 0
    for name, source in SOURCES.items():
        assert f"{name}: {source.title}" in ended.out
        assert source.licence in ended.out


def test_build_and_check(flava: Command, tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 12)
    with config.annotations[0].open("a") as tsv:
        tsv.write("http://images.example/1.jpg\t<br>\n")
    arguments = ["--annotations", config.annotations[0], "--images", config.images]
    arguments += ["--output", config.output, "--processes", 1]
    ended = flava("data", "build", "cc12m", *arguments)
    assert ended.status == 0, ended.error
    assert "12 of 13 rows kept in 1 shards" in ended.out
    assert "1 left out: caption is markup or signs alone (cc12m.tsv:13: " in ended.out
    assert captions(config.output) == [f"picture number {n}" for n in range(12)]
    checked = flava("data", "check", config.output, "--processes", 1)
    assert checked.status == 0
    assert "all shards match their manifests" in checked.out
    (config.output / "cc12m-000000.tar").unlink()
    damaged = flava("data", "check", config.output, "--processes", 1)
    assert damaged.status == 1
    assert "cc12m-000000.tar: is missing" in damaged.error


def test_a_wrong_command_is_an_error_without_traceback(flava: Command, tmp_path: Path) -> None:
    ended = flava("data", "build", "laion", "--annotations", tmp_path / "a", "--output", tmp_path)
    assert ended.status == 1
    assert "there is no source 'laion'" in ended.error
    assert "there is no such file" in ended.error


def test_urls_are_those_of_the_pairs_that_pass(flava: Command, tmp_path: Path) -> None:
    paths, pairs = published_files.yfcc100m(tmp_path)
    output = tmp_path / "urls.parquet"
    ended = flava(
        "data", "urls", "yfcc100m", "--annotations", *paths, "--output", output, "--processes", 1
    )
    assert ended.status == 0, ended.error
    assert f"3 URLs of {len(published_files.YFCC)} rows" in ended.out
    assert "img2dataset --url_list" in ended.out
    assert pq.read_table(output)["url"].to_pylist() == [url for url, _ in pairs]


def test_a_source_without_urls_has_nothing_to_fetch(flava: Command, tmp_path: Path) -> None:
    paths, _ = published_files.visual_genome(tmp_path)
    output = tmp_path / "urls.parquet"
    ended = flava(
        "data",
        "urls",
        "visual-genome",
        "--annotations",
        *paths,
        "--output",
        output,
        "--processes",
        1,
    )
    assert ended.status == 1
    assert "none of the 3 rows of visual-genome has a URL to be fetched" in ended.error
    assert not output.exists()


def test_passages_are_not_told_as_rows_that_were_lost(flava: Command, tmp_path: Path) -> None:
    (tmp_path / "books.txt").write_text("\n".join(f"it was line {n} ." for n in range(1200)))
    output = tmp_path / "shards"
    ended = flava(
        "data", "build", "bookcorpus", "--annotations", tmp_path / "books.txt", "--output", output
    )
    assert ended.status == 0, ended.error
    assert "3 samples of 1,200 rows in 1 shards" in ended.out
    assert "left out" not in ended.out

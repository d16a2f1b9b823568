"""Builds that were ended, and gone on with."""

import errno
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flava.prepare import blocks, build, finish
from tests.prepare.made import built, contents, write_pairs


def test_going_on_equals_the_undisturbed_build_wherever_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end before each file that is put in place: what was written of it is lost, as after
    SIGKILL."""
    config = write_pairs(tmp_path, 16)
    built(config)
    undisturbed = contents(config.output)
    replaced = Path.replace
    ends = 0
    while True:
        output = tmp_path / f"ended-{ends}"
        seen = Counter[str]()

        def ending(path: Path, target: Any, at: int = ends, seen: Counter[str] = seen) -> Path:
            seen["files"] += 1
            if seen["files"] > at:
                raise KeyboardInterrupt
            return replaced(path, target)

        monkeypatch.setattr(Path, "replace", ending)
        try:
            built(config, output=output)
        except KeyboardInterrupt:
            ended = True
        else:
            ended = False
        monkeypatch.setattr(Path, "replace", replaced)
        if not ended:
            break
        assert not (output / "manifest.json").exists()
        built(config, output=output)
        assert contents(output) == undisturbed, ends
        ends += 1
    assert ends > 15


def test_an_end_while_samples_are_dealt_to_shards_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the third shard: the two that are whole are not written again."""
    config = write_pairs(tmp_path, 30)
    undisturbed = tmp_path / "undisturbed"
    built(config, output=undisturbed)
    read = finish.read_range
    reads = Counter[str]()

    def ending(path: Path, start: int, size: int) -> bytes:
        reads["samples"] += 1
        if reads["samples"] == 15:
            raise KeyboardInterrupt
        return read(path, start, size)

    monkeypatch.setattr(finish, "read_range", ending)
    with pytest.raises(KeyboardInterrupt):
        built(config)
    there = sorted(path.name for path in config.output.iterdir())
    assert there == [".unfinished", "cc12m-000000.tar", "cc12m-000001.tar"]
    built(config)
    assert reads["samples"] == 15 + 30 - 12
    assert contents(config.output) == contents(undisturbed)


def test_a_block_that_lost_its_end_is_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_pairs(tmp_path, 30)
    find = finish.find_duplicates

    def cut(job: blocks.Job, *arguments: Any, **named: Any) -> Any:
        block = job.shard(1)
        block.write_bytes(block.read_bytes()[:5_000])
        return find(job, *arguments, **named)

    monkeypatch.setattr(build, "find_duplicates", cut)
    with pytest.raises(OSError, match=r"shorter than it was written: .*block-000001\.tar"):
        built(config)
    assert not list(config.output.rglob(".*.partial"))


def test_a_whole_build_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_pairs(tmp_path, 10)
    done = built(config)

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(blocks, "_image_sample", never)
    assert built(config) == done


def test_another_config_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 10)
    built(config)
    with pytest.raises(ValueError, match=r"was built from something else:(.|\n)*rows_per_shard"):
        built(config, rows_per_shard=5)
    with config.annotations[0].open("a") as tsv:
        tsv.write(f"{'http://images.example/1.jpg'}\tone more\n")
    with pytest.raises(ValueError, match=r"annotations: (.|\n)*another --output"):
        built(config)


def test_a_full_disk_names_the_remedy_and_what_is_done_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_pairs(tmp_path, 30)
    undisturbed = tmp_path / "undisturbed"
    built(config, output=undisturbed)
    saved = blocks.save_array

    def full(path: Path, values: np.ndarray) -> None:
        if path.name == "block-000002.npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        saved(path, values)

    monkeypatch.setattr(blocks, "save_array", full)
    with pytest.raises(OSError, match=r"No space left.*the same command goes on"):
        built(config)
    assert not list(config.output.rglob(".*.partial"))
    monkeypatch.setattr(blocks, "save_array", saved)
    built(config)
    assert contents(config.output) == contents(undisturbed)


def test_a_file_that_cannot_be_written_to_its_end_is_named_and_gone_on_with(
    tmp_path: Path,
) -> None:
    """In a process that may write no more than 20 kB to a file, which fails as a full disk does:
    in the middle of a shard, where buffers still hold something."""
    config = replace(write_pairs(tmp_path, 30), rows_per_shard=15)
    undisturbed = tmp_path / "undisturbed"
    built(config, output=undisturbed)
    arguments = ["data", "build", "cc12m", "--annotations", str(config.annotations[0])]
    arguments += ["--images", str(config.images), "--output", str(config.output)]
    arguments += ["--cleaning.short-side", "24", "--rows-per-shard", "15", "--processes", "1"]
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"from flava.cli import main; raise SystemExit(main({arguments}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "block-000000.tar" in done.stderr
    assert "the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(config.output.rglob(".*.partial"))
    built(config)
    assert contents(config.output) == contents(undisturbed)

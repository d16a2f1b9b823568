"""An interrupted command that is started again writes what an uninterrupted one does."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flava.inference import bulk
from flava.inference.bulk import BulkResult, embed_rows
from flava.inference.int8 import InferencePrecision
from flava.inference.output_files import PartialOutput, _partial_folder
from flava.inference.row_sources import InputKind, InputSource, open_source
from tests.data.shard_files import encoded, pair_files, picture, write_tar
from tests.inference.encoders import KnownEncoder

ROWS = 120


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number in range(ROWS):
        data = b"" if number % 10 == 7 else encoded(picture(number))
        (root / f"{number:03d}.png").write_bytes(data)
    return root


def images(folder: Path) -> InputSource:
    return open_source(InputKind.IMAGES, str(folder))


def embed(source: InputSource, output: Path, encoder: KnownEncoder | None = None) -> BulkResult:
    return embed_rows(encoder or KnownEncoder(), source, output, model="a/b", batch_size=4)


def start(kind: str, *sources: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.inference.slowly", kind, *map(str, sources)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def consumed(output: Path) -> int:
    journal = _partial_folder(output) / "journal.json"
    return json.loads(journal.read_text())["consumed"] if journal.exists() else 0


def kill_after(process: subprocess.Popen[str], output: Path, rows: int) -> None:
    deadline = time.monotonic() + 120
    while consumed(output) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, folder):
    output, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    for rows in (1, 60):
        kill_after(start("images", folder), output, rows)
        assert not output.exists()
        assert rows <= consumed(output) < ROWS
    encoder = KnownEncoder()
    outcome = embed(images(folder), output, encoder)
    assert sum(encoder.batches) == outcome.rows - outcome.resumed_rows
    assert 0 < outcome.resumed_rows < outcome.rows == ROWS * 9 // 10
    assert f"{outcome.resumed_rows} of them done earlier" in str(outcome)
    embed(images(folder), whole)
    for name in ("{}.parquet", "{}.skipped.jsonl"):
        first, second = (tmp_path / name.format(stem) for stem in ("out", "whole"))
        assert first.read_bytes() == second.read_bytes(), name
    assert not _partial_folder(output).exists()


class Stopping(KnownEncoder):
    """Raises an error at a batch."""

    def __init__(self, batch: int, error: BaseException) -> None:
        super().__init__()
        self.batch, self.error = batch, error

    def encode_image(self, images):
        if len(self.batches) == self.batch:
            raise self.error
        return super().encode_image(images)


def test_ctrl_c_says_how_to_go_on_and_loses_nothing(tmp_path, folder):
    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt, match="stopped after 40 rows: run the same command"):
        embed(images(folder), output, Stopping(10, KeyboardInterrupt()))
    encoder = KnownEncoder()
    assert embed(images(folder), output, encoder).resumed_rows == 40
    assert sum(encoder.batches) == ROWS * 9 // 10 - 40


def test_what_was_written_after_the_last_commit_is_cut_off(tmp_path, folder):
    output, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(images(folder), output, Stopping(10, KeyboardInterrupt()))
    for name in ("rows.jsonl", "vectors.f32", "skipped.jsonl"):
        with (_partial_folder(output) / name).open("ab") as file:
            file.write(b'{"path": "half a row')
    embed(images(folder), output)
    embed(images(folder), whole)
    assert output.read_bytes() == whole.read_bytes()


def test_it_does_not_go_on_with_another_model_precision_or_input(tmp_path, folder):
    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(images(folder), output, Stopping(10, KeyboardInterrupt()))
    with pytest.raises(ValueError, match="model: model-a then, model-b now") as caught:
        embed(images(folder), output, KnownEncoder("model-b"))
    assert str(_partial_folder(output)) in str(caught.value)
    lower = KnownEncoder()
    lower.precision = InferencePrecision.INT8
    with pytest.raises(ValueError, match="precision: fp32 then, int8 now"):
        embed(images(folder), output, lower)
    (folder / "new.png").write_bytes(encoded(picture(1)))
    with pytest.raises(ValueError, match=r"(?s)out\.parquet was begun with something else.*input:"):
        embed(images(folder), output)
    tar = write_tar(tmp_path / "a.tar", pair_files(range(3)))
    with pytest.raises(ValueError, match="kind: images then, pairs now"):
        embed(open_source(InputKind.PAIRS, str(tar)), output)
    (folder / "new.png").unlink()
    assert embed(images(folder), output).resumed_rows == 40


@pytest.mark.parametrize("name", ["journal.json", "vectors.f32"])
def test_damaged_leftovers_are_refused_with_what_to_do(tmp_path, folder, name):
    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        embed(images(folder), output, Stopping(10, KeyboardInterrupt()))
    left = _partial_folder(output) / name
    left.write_bytes(left.read_bytes()[:-9])
    with pytest.raises(
        ValueError, match=rf"{name} is .*: delete {_partial_folder(output)} to begin"
    ):
        embed(images(folder), output)


def test_a_full_disk_loses_nothing(tmp_path, folder, monkeypatch):
    output = tmp_path / "out.parquet"
    write, calls = PartialOutput._write, []

    def full(self: PartialOutput, name: str, data: bytes) -> None:
        calls.append(name)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr("flava.inference.output_files.SECONDS_BETWEEN_COMMITS", 0)
    monkeypatch.setattr(PartialOutput, "_write", full)
    with pytest.raises(OSError, match=r"could not be written .*No space left.*free some space"):
        embed(images(folder), output)
    monkeypatch.undo()
    assert embed(images(folder), output).resumed_rows == 40
    embed(images(folder), tmp_path / "whole.parquet")
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_when_only_the_output_could_not_be_written_no_row_is_computed_again(
    tmp_path, folder, monkeypatch
):
    output = tmp_path / "out.parquet"

    def full(_: PartialOutput) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bulk, "write_output", full)
    with pytest.raises(OSError, match="No space"):
        embed(images(folder), output)
    monkeypatch.undo()
    encoder = KnownEncoder()
    outcome = embed(images(folder), output, encoder)
    assert not encoder.batches
    assert outcome.rows == outcome.resumed_rows == ROWS * 9 // 10
    assert pq.read_metadata(output).num_rows == outcome.rows


def test_memory_does_not_grow_with_the_input(tmp_path):
    """Two row groups are in memory in both, and the rows more alone have 120 MB of vectors."""
    counts = 35_000, 95_000
    files = [tmp_path / f"{count}.txt" for count in counts]
    for file, count in zip(files, counts, strict=True):
        file.write_text("".join(f"text number {n}\n" for n in range(count)))
    out, error = start("texts", *files).communicate()
    first, second = map(int, out.split())
    assert second < first + 40, error
    assert [pq.read_metadata(file.with_suffix(".parquet")).num_rows for file in files] == [*counts]

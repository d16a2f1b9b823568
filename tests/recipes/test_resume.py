"""A run that was stopped and goes on is the run that was not: bit for bit, row for row."""

import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader
from flava.data.shards import read_shard
from flava.methods import Validator
from flava.models import Codebook
from flava.objectives import FlavaObjective, LossOutput
from flava.recipes.start import start
from flava.training.checkpoint import load_progress, save_checkpoint
from flava.training.initialization import InitConfig
from flava.training.launch import Interrupted
from flava.training.run import RUN, Run
from flava.training.state import _stored_tensors
from tests.data.shard_files import encoded, picture, write_tar
from tests.tiny_runs import CODEBOOK, IMAGE, codebook_run, figures, flava_data, flava_run

PROBES = (0.1, 0.4, 0.2)


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch) -> None:
    """Instead of a look at the held-out images: figures by the step, and a draw from the RNG."""

    def probe(_model: object, step: int) -> dict[str, float]:
        return {"good": PROBES[step % 3], "drawn": torch.rand(()).item()}

    monkeypatch.setattr("flava.recipes.start.embedded_validator", lambda _: probe)


def flava(folder: Path, workers: int) -> Run:
    codebook = save_checkpoint(folder, "codebook", Codebook(CODEBOOK))
    data = flava_data(folder / "data", workers)
    init = InitConfig(codebook=str(codebook))
    return flava_run(
        folder / "through",
        data,
        init=init,
        accumulate=2,
        validator=Validator.EMBEDDED,
        validate_every=3,
    )


def codebook(folder: Path, workers: int) -> Run:
    """Its objective draws from torch's generator, and anneals by the step."""
    data = replace(flava_data(folder / "data", workers), pairs=None, text=None)
    return codebook_run(folder / "through", data=data, max_steps=8)


def assert_same(first: Path, second: Path) -> None:
    assert figures(first) == figures(second)
    for link in ("last", "best"):
        checkpoints = [folder / "checkpoints" / link for folder in (first, second)]
        assert checkpoints[0].exists() == checkpoints[1].exists()
        if checkpoints[0].exists():
            ours, theirs = (load_pretrained(path).state_dict() for path in checkpoints)
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
            ours, theirs = (load_progress(path) for path in checkpoints)
            assert ours.step == theirs.step
            ours, theirs = (_stored_tensors(path) for path in checkpoints)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("make", [flava, codebook])
@pytest.mark.parametrize(("workers", "stops"), [(0, (2, 5)), (1, (3,))])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, make, workers, stops):
    through = make(tmp_path, workers)
    start(through)
    parts = replace(through, output_dir=tmp_path / "parts")
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr("flava.training.trainer.Trainer.validate_and_save", interrupting(stop))
            with pytest.raises(Interrupted, match=f"stopped after {stop} of 8"):
                start(parts)
        parts = replace(parts, resume=True)
        torch.rand(7)  # what is left in this process's generator must not matter
    start(parts)
    losses = [row for row in figures(parts.output_dir) if "lr" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert_same(through.output_dir, parts.output_dir)


def interrupting(step: int) -> Callable[..., None]:
    """`Trainer.validate_and_save`, with Ctrl-C once it has looked at that step."""
    from flava.training.trainer import Trainer

    look = Trainer.validate_and_save

    def looks(self: Trainer, *arguments: object) -> None:
        look(self, *arguments)  # pyright: ignore[reportArgumentType]
        if self.step == step:
            signal.raise_signal(signal.SIGINT)

    return looks


def test_a_stream_is_not_read_again_from_the_beginning(tmp_path, monkeypatch):
    """With two workers, each of which reads two of four streams."""
    opened = tmp_path / "opened"

    def noting(shard: Path) -> object:
        with opened.open("a") as file:  # workers are processes of their own
            file.write(f"{shard.stem}\n")
        return read_shard(shard)

    monkeypatch.setattr("flava.data.streaming.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("flava.data.loader.read_shard", noting)
    shards = [
        write_tar(
            tmp_path / f"{n}.tar", {f"{n}-{i}.png": encoded(picture(4 * n + i)) for i in range(4)}
        )
        for n in range(24)
    ]
    source = SourceConfig(shards=tuple(map(str, shards)), weight=1.0, batch_size=4)
    data = DataConfig(images=source, image=IMAGE, workers=2, streams=4)
    through = codebook_run(tmp_path / "through", data=data, max_steps=16)
    start(through)
    parts, stop = replace(through, output_dir=tmp_path / "parts"), 10
    with monkeypatch.context() as patch:
        patch.setattr("flava.training.trainer.Trainer.validate_and_save", interrupting(stop))
        with pytest.raises(Interrupted):
            start(parts)
    opened.unlink()
    start(replace(parts, resume=True))
    assert_same(through.output_dir, parts.output_dir)
    again = set(opened.read_text().split())
    with Loader(replace(data, workers=0), seed=through.seed) as batches:
        taken = Counter(key.split("-")[0] for _ in range(stop) for key in next(batches).keys)
    # Each stream has read two shards and a half.
    assert sorted(taken.values()) == [2] * 4 + [4] * 8
    assert not {shard for shard, samples in taken.items() if samples == 4} & again
    assert {shard for shard, samples in taken.items() if samples == 2} <= again


KILLED = """
import os, signal, sys
from pathlib import Path
from flava.recipes.start import start
from flava.training.trainer import Trainer
from flava.training.run import Run
from flava.training.trainer_config import load_config

look = Trainer.validate_and_save
def looks(self, *arguments):
    if self.step == 6:
        self.writer.wait()  # for the checkpoint after update 4
        os.kill(os.getpid(), signal.SIGKILL)
    look(self, *arguments)
Trainer.validate_and_save = looks
start(load_config(Path(sys.argv[1]), Run))
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    through = replace(codebook(tmp_path, workers=1), checkpoint_every=4)
    start(through)
    parts = replace(through, output_dir=tmp_path / "parts")
    (tmp_path / "run.json").write_bytes(RUN.dump_json(parts))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run.json")], capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    # Two rows stand there that no checkpoint knows of.
    assert [row["step"] for row in figures(parts.output_dir)] == [1, 2, 3, 4, 5, 6]
    assert load_progress(parts.output_dir / "checkpoints" / "last").step == 4
    start(replace(parts, resume=True))
    assert_same(through.output_dir, parts.output_dir)


def test_a_resumed_run_that_is_done_trains_no_more(tmp_path, monkeypatch):
    run = flava(tmp_path, workers=0)
    start(run)
    before = figures(run.output_dir)

    def never(_self: object, _batch: Batch) -> dict[str, LossOutput]:
        raise AssertionError("it trains")

    monkeypatch.setattr(FlavaObjective, "__call__", never)
    start(replace(run, resume=True))
    assert figures(run.output_dir) == before


def test_sources_are_not_read_again(tmp_path):
    """They may be gone, and what was taken from them stays written."""
    run = flava(tmp_path, workers=0)
    start(replace(run, max_steps=3))
    written = (run.output_dir / "init.json").read_bytes()
    shutil.rmtree(tmp_path / "codebook")
    start(replace(run, resume=True))
    assert (run.output_dir / "init.json").read_bytes() == written
    assert [row["step"] for row in figures(run.output_dir) if "lr" in row] == list(range(1, 9))

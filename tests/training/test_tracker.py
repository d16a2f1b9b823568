"""What Weights & Biases is told, read back from the file that its library writes when offline."""

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

from flava.training.metrics import MetricsLogger, WandbLogger
from tests.tiny_runs import codebook_run

BLOCK, FILE_HEADER, HEADER = 2**15, 7, struct.Struct("<IHB")
"""LevelDB's log: blocks of records, each with a checksum, a length, and which part of one it is."""
WHOLE, LAST = 1, 4


def history(folder: Path) -> list[dict[str, float]]:
    """The rows of the one file of ``folder``, without the library's own time stamps."""
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = vars(wandb_internal_pb2)["Record"]()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
                rows.append({k: json.loads(v) for k, v in items.items() if k[0] != "_"})
    return rows


def records(log: bytes) -> Iterator[bytes]:
    at, whole = FILE_HEADER, b""
    while at + HEADER.size <= len(log):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, part = HEADER.unpack_from(log, at)
        at += HEADER.size
        whole += log[at : at + length]
        at += length
        if part in (WHOLE, LAST):
            yield whole
            whole = b""


def test_every_figure_is_told_and_a_run_that_goes_on_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = codebook_run(tmp_path, wandb="project")
    logger = MetricsLogger(run, 0)
    logger.write({"step": 1, "batch": "images", "loss/total": 2.5, "accuracy/mim": None})
    logger.write({"step": 1, "validation/accuracy": 0.25})
    logger.close()
    time.sleep(1)  # the library names its folders by the second
    logger = MetricsLogger(run, 1)
    logger.write({"step": 2, "batch": "images", "loss/total": 1.5})
    logger.close()
    expected = [
        {"step": 1, "batch": "images", "loss/total": 2.5},
        {"step": 1, "validation/accuracy": 0.25},
        {"step": 2, "batch": "images", "loss/total": 1.5},
    ]
    patience = 30
    while history(tmp_path) != expected and patience:  # the library's process may still be writing
        patience -= 1
        time.sleep(1)
    assert history(tmp_path) == expected
    names = {path.stem for path in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert len(names) == 1


def test_without_the_library_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb is set, but.*pip install 'flava\[wandb\]'"):
        WandbLogger(codebook_run(tmp_path, wandb="project"))

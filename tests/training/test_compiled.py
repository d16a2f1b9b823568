"""Compiled blocks and 16 bits on two ranks, beside one process that has neither."""

from pathlib import Path
from typing import Any

import pytest

from flava.checkpoints.recognise import load_pretrained
from flava.core.precision import Precision
from flava.training.trainer_config import Parallel
from tests.tiny_runs import rows
from tests.training.ranks import own_share, run_phases
from tests.training.test_parallel import batches, config, trainer_of

pytestmark = pytest.mark.slow  # a C++ compiler is at work

CASES: dict[str, tuple[dict[str, Any], float]] = {
    "ddp, compiled": ({"compile_blocks": True}, 1e-4),
    "fsdp, compiled": ({"compile_blocks": True, "parallel": Parallel.FSDP}, 1e-4),
    "ddp, 16 bits": ({"precision": Precision.BF16}, 2e-3),
    "fsdp, 16 bits": ({"precision": Precision.BF16, "parallel": Parallel.FSDP}, 2e-3),
    "fsdp, 16 bits, compiled": (
        {"precision": Precision.BF16, "parallel": Parallel.FSDP, "compile_blocks": True},
        2e-3,
    ),
}
"""And how much the losses may differ: of 32 bits the order of sums; of 16 a number is off by up to
2^-9, and a loss is a mean of hundreds of them."""


def train_all(folder: Path) -> None:
    for name, (changes, _) in CASES.items():
        run = config(folder / name, **changes)
        trainer_of(run).train(own_share(batches(run)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    run_phases([(2, train_all)], folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_plain_process(trained: Path, tmp_path: Path, name: str) -> None:
    run = config(tmp_path / "alone")
    trainer_of(run).train(batches(run))
    _, tolerance = CASES[name]
    for ours, theirs in zip(rows(run.output_dir), rows(trained / name), strict=True):
        for figure in (f for f in ours if f.startswith("loss/")):
            assert theirs[figure] == pytest.approx(ours[figure], rel=tolerance), figure
    kept = load_pretrained(trained / name / "checkpoints" / "last").state_dict()
    assert kept.keys() == load_pretrained(run.output_dir).state_dict().keys()

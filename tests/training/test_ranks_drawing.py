"""Two ranks whose model draws random numbers: drop path, and codes by Gumbel noise."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import Batch, ImageBatch
from flava.core.distributed import rank
from flava.models import Codebook, Flava
from flava.objectives import (
    CodebookObjective,
    CodebookObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
)
from flava.training.launch import Interrupted
from flava.training.run_folder import check
from flava.training.state import _stored_tensors
from flava.training.trainer import Trainer
from flava.training.trainer_config import Parallel, TrainerConfig
from tests.support import randomise, tiny_config
from tests.training.ranks import mixed_batches, own_share, run_phases
from tests.training.test_parallel import STEPS, config, signalled

pytestmark = pytest.mark.slow

STOP = 3


def dropping() -> FlavaObjective:
    tiny = tiny_config()
    tiny = replace(tiny, image=replace(tiny.image, drop_path=0.5))
    model = Flava(replace(tiny, text=replace(tiny.text, drop_path=0.5)))
    randomise(model)
    return FlavaObjective(FlavaObjectiveConfig(), model)


def sampling() -> CodebookObjective:
    return CodebookObjective(CodebookObjectiveConfig(), Codebook(tiny_config().codebook))


MAKE = {"drop path": dropping, "codes": sampling}


def batches_for(name: str, first: int) -> Iterator[Batch]:
    every = own_share(mixed_batches(first))
    if name == "drop path":
        return every
    return (batch for batch in every if isinstance(batch, ImageBatch))


def trainer_of(run: TrainerConfig) -> Trainer:
    torch.manual_seed(run.seed)
    check(run)
    return Trainer(run, MAKE[run.recipe](), None)


def train(folder: Path, name: str, parallel: Parallel) -> None:
    """Once without a stop, and once with one."""
    changes = {"recipe": name, "parallel": parallel}
    through = config(folder / f"{name}, {parallel.value}", **changes)
    trainer_of(through).train(batches_for(name, 0))
    parts = replace(through, output_dir=folder / f"{name}, {parallel.value}, in parts")
    with pytest.raises(Interrupted, match=f"after {STOP} of {STEPS}"):
        trainer_of(parts).train(signalled(batches_for(name, 0), at=STOP - 1))
    torch.rand(3 + rank())  # what is left in the generators must not matter
    again = trainer_of(replace(parts, resume=True))
    again.train(batches_for(name, 3 * STOP if name == "codes" else STOP))


CASES = [(name, parallel) for name in MAKE for parallel in (Parallel.DDP, Parallel.FSDP)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawing")
    run_phases([(2, partial(train, name=n, parallel=p)) for n, p in CASES], folder)
    return folder


@pytest.mark.parametrize(("name", "parallel"), CASES)
def test_ranks_that_go_on_draw_as_if_they_had_not_stopped(
    trained: Path, name: str, parallel: Parallel
) -> None:
    through, parts = (
        trained / f"{name}, {parallel.value}{part}" / "checkpoints" / "last"
        for part in ("", ", in parts")
    )
    ours, theirs = (load_pretrained(path).state_dict() for path in (through, parts))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ours, theirs = (_stored_tensors(path) for path in (through, parts))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # Each rank draws numbers of its own: the same dropped in all of them would be less noise.
    assert not torch.equal(ours["random.0.cpu"], ours["random.1.cpu"])

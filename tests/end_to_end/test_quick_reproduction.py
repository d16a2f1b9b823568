"""`flava reproduce --quick` from end to end: every twin learns what holds for data it never saw."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flava.cli import main
from flava.data.loader import Loader, SourceConfig
from flava.model.published.load import load_pretrained
from flava.objectives import DinoObjective
from flava.recipes.reproduction import STAGES, Trial, columns, trials
from flava.recipes.start import held_out_batches, join
from flava.training.run import Run
from tests.recipes.test_dino import held_out as held_out_dino

UNSEEN_STYLE = "embedded:pairs/twemoji-train.tar"


def held_out_loss(run: Run, *, trained: bool) -> float:
    """Of pairs the contrastive loss in an unseen style; of one modality its own on held-out data.

    Means over four batches, always the same and masked alike.
    """
    torch.manual_seed(run.seed)
    objective, _ = join(run)
    if trained:
        objective.model.load_state_dict(load_pretrained(run.output_dir).state_dict())
    if isinstance(objective, DinoObjective):
        return sum(held_out_dino(objective.model, run).values())
    with torch.inference_mode():
        if run.held_out:
            losses = [objective(batch) for batch in held_out_batches(run)]
        else:
            pairs = SourceConfig(shards=(UNSEEN_STYLE,), weight=1.0, batch_size=128)
            data = replace(run.data, pairs=pairs, images=None, text=None, workers=0)
            with Loader(data, seed=7) as batches:
                losses = [objective(next(batches)) for _ in range(4)]
    (name,) = {"gc", "mim", "mlm"} & losses[0].keys()
    return sum(terms[name].loss.item() for terms in losses) / len(losses)


def planned(folder: Path, *, quick: bool = True) -> dict[str, Trial]:
    """Every trial of seed 0 by its name."""
    found = trials((*STAGES, *columns()), "-tiny", folder, seed=0, quick=quick)
    return {trial.name: trial for trial in found}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole quick reproduction."""
    folder = tmp_path_factory.mktemp("reproduced")
    assert main(["reproduce", "--quick", "--output-dir", str(folder)]) == 0
    return folder

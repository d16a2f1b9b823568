"""The contrastive twins learn what carries over to a drawing style that they never saw."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flava.data.loader import Loader, SourceConfig
from flava.model.published.load import load_pretrained
from flava.recipes import RECIPES
from flava.recipes.start import join, start
from flava.training.run import Run


def contrast(run: Run, trained: bool) -> float:
    """The mean loss of four batches of concepts it has seen in a style that it has not."""
    torch.manual_seed(run.seed)
    objective, _ = join(run)
    if trained:
        objective.model.load_state_dict(load_pretrained(run.output_dir).state_dict())
    pairs = SourceConfig(shards=("embedded:pairs/twemoji-train.tar",), weight=1.0, batch_size=128)
    with Loader(replace(run.data, pairs=pairs), seed=7) as batches, torch.inference_mode():
        return sum(objective(next(batches))["gc"].loss.item() for _ in range(4)) / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flava-c-tiny", "clip-pmd-tiny"])
def test_150_updates_lower_the_held_out_loss_by_1(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the 4.9 and 5.1 of chance: it was 1.4 and 1.6 (docs/log.md)."""
    monkeypatch.setattr("flava.recipes.start.zero_shot_probe", lambda _: None)
    run = RECIPES[name]()
    run = replace(run, output_dir=tmp_path / name, max_steps=150, data=replace(run.data, workers=0))
    before = contrast(run, trained=False)
    start(run)
    assert contrast(run, trained=True) < before - 1

"""The twins of one modality learn something that holds for data they were not trained on."""

from dataclasses import replace

import pytest

from flava.recipes import RECIPES
from flava.recipes.start import start
from tests.tiny_runs import rows

FREQUENCIES = {
    "mim-tiny": 3.27,
    "image-beit-tiny": 4.16,
    "mlm-tiny": 7.54,
    "text-mlm-tiny": 8.61,
}
"""Held-out loss in nats of predicting by the frequencies of ten training batches (docs/log.md)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FREQUENCIES)
def test_a_hundred_updates_beat_looking_at_nothing(tmp_path, name):
    """By 0.3 nats for each prediction; without training the loss is 2.2 to 3.7 nats above it."""
    run = replace(RECIPES[name](), output_dir=tmp_path, max_steps=100, validate_every=100)
    run = replace(run, schedule=replace(run.schedule, warmup_steps=50))
    start(run)
    (probe,) = (row for row in rows(tmp_path) if "lr" not in row)
    (figure,) = (value for key, value in probe.items() if key.endswith("log_likelihood"))
    assert -figure < FREQUENCIES[name] - 0.3

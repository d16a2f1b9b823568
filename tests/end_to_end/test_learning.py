"""Whether the demo's recipe learns what it is for, on data that it has not seen: some minutes."""

from pathlib import Path

import pytest

from flava.evaluation.record import load_evaluation
from tests.end_to_end.test_tiny_run import flava
from tests.tiny_runs import rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

UPDATES = 250
"""A fifth of the demo's: about three minutes on two cores."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("learning") / "run"
    flava("train", "flava-tiny", f"--max-steps={UPDATES}", f"--output-dir={folder}", minutes=30)
    flava("evaluate", str(folder), minutes=30)
    return folder


def test_every_loss_falls_well_below_its_first_value(run: Path) -> None:
    found = rows(run)
    for name in ("gc", "mmm_image", "mmm_text", "itm", "mim", "mlm"):
        values = [row[f"loss/{name}"] for row in found if f"loss/{name}" in row]
        last = values[-len(values) // 10 :]
        assert sum(last) / len(last) < 0.9 * values[0], name


def test_drawings_in_an_unseen_style_are_found_ten_times_as_often_as_by_chance(run: Path) -> None:
    evaluation = load_evaluation(run)
    for way in ("text_to_image", "image_to_text"):
        figure = evaluation.figure("retrieval", "unseen_style", f"{way}_r@5")
        assert figure is not None
        assert figure.value > 10 * figure.baselines["chance"]
        assert figure.baselines["untrained"] < 3 * figure.baselines["chance"]

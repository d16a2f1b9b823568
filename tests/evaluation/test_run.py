from pathlib import Path

import pytest

from flava.evaluation.run import evaluate_run, summary
from flava.model import Codebook
from flava.training.checkpoint import save_checkpoint
from tests.evaluation.corpus import tiny_geometry
from tests.evaluation.test_report import evaluation


def test_a_folder_without_a_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path}"):
        evaluate_run(tmp_path)


def test_a_codebook_is_not_evaluated_as_a_flava(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoints", "last", Codebook(tiny_geometry().codebook))
    with pytest.raises(ValueError, match="holds a Codebook: only a FLAVA can be evaluated"):
        evaluate_run(tmp_path)
    assert not (tmp_path / "evaluation.json").exists()


def test_the_summary_gives_each_headline_beside_its_baselines() -> None:
    found, _ = evaluation()
    lines = summary(found)
    assert len(lines) == 1
    assert "0.321" in lines[0]
    assert "chance 0.004, untrained 0.005" in lines[0]

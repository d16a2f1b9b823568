from functools import partial
from pathlib import Path

import pytest
import torch

from flava.evaluation import evaluate as evaluating
from flava.evaluation.evaluate import _evaluate, _summary, evaluate_run
from flava.evaluation.record import load_evaluation
from flava.inference.export import export
from flava.models import Codebook, Flava
from flava.training.checkpoint import save_checkpoint
from tests.evaluation.corpus import splits, tiny_geometry
from tests.reports.test_run_report import evaluation


def test_a_folder_without_a_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path}"):
        evaluate_run(tmp_path)


def test_a_mistyped_run_is_told_from_an_id_on_the_hub() -> None:
    with pytest.raises(ValueError, match=r"there is no folder runs/typo: check the path; or, if"):
        evaluate_run("runs/typo")


def test_a_codebook_is_not_evaluated_as_a_flava(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoints", "last", Codebook(tiny_geometry().codebook))
    with pytest.raises(ValueError, match="holds a Codebook: only a FLAVA, a CLIP or an encoder"):
        evaluate_run(tmp_path)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_file_of_weights_is_evaluated_to_another_folder(tmp_path, monkeypatch) -> None:
    """The figures of the run that it was written from; a file has no folder of its own."""
    torch.manual_seed(0)
    model = Flava(tiny_geometry())
    monkeypatch.setattr(evaluating, "_evaluate", partial(_evaluate, splits=splits(tmp_path)))
    save_checkpoint(tmp_path / "run" / "checkpoints", "last", model)
    export(model, tmp_path / "published", "flava")
    evaluate_run(tmp_path / "run")
    weights = tmp_path / "published" / "model.safetensors"
    with pytest.raises(ValueError, match=f"{weights} is no folder to write to: give one with"):
        evaluate_run(weights)
    evaluate_run(weights, output_dir=tmp_path / "figures" / "new")
    ours, theirs = (load_evaluation(tmp_path / name) for name in ("run", "figures/new"))
    assert ours.figures == theirs.figures
    assert len(ours.figures) > 30


def test_the_summary_gives_each_headline_beside_its_baselines() -> None:
    found, _ = evaluation()
    lines = _summary(found)
    assert len(lines) == 1
    assert "0.321" in lines[0]
    assert "chance 0.004, untrained 0.005" in lines[0]

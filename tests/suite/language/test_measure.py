"""Whole GLUE tasks on small data: learnt, measured as reported, predicted for the server."""

import csv
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from flava.core.precision import Precision
from flava.data.labelled import LabelledRow
from flava.evaluation.record import Figure
from flava.models import (
    Clip,
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from flava.suite.language.glue import COLA, MNLI, RTE, SST2, STSB, GlueRecipe, GlueTask
from flava.suite.language.glue_metrics import write_submission
from flava.suite.language.measure import _figures, _recipe_for, measure
from flava.suite.task import Settings
from tests.suite.language.glue_data import samples, write_all
from tests.tiny_runs import CODEBOOK

SMALL: dict[str, Any] = {"width": 32, "depth": 1, "heads": 2, "mlp_width": 64}


def flava() -> Flava:
    torch.manual_seed(1)
    return Flava(
        FlavaConfig(
            image=ImageConfig(image_size=16, patch_size=8, **SMALL),
            text=TextConfig(max_length=24, **SMALL),
            multimodal=MultimodalConfig(**SMALL),
            projection_width=8,
            codebook=CODEBOOK,
        )
    )


def clip() -> Clip:
    torch.manual_seed(1)
    return Clip(
        ClipConfig(
            image=ClipImageConfig(image_size=16, patch_size=8, **SMALL),
            text=ClipTextConfig(max_length=24, **SMALL),
            projection_width=8,
        )
    )


def quick(task: GlueTask, seeds: int = 1, updates: int = 40, rows: int = 48) -> GlueTask:
    recipe = GlueRecipe(
        lr=4e-3, batch_size=16, max_steps=updates, warmup_steps=4, train_rows=rows, seeds=seeds
    )
    return replace(task, recipe=recipe)


def settings(root: Path, **changes) -> Settings:
    made = Settings(data_root=root, cache=root / "cache", precision=Precision.FP32)
    return replace(made, **changes)


def figure(found: list[Figure], name: str) -> Figure:
    return next(each for each in found if f"{each.split}/{each.metric}" == name)


@pytest.mark.parametrize("make", [flava, clip], ids=["flava", "clip"])
def test_pairs_are_learnt_and_both_halves_of_mnli_are_measured(tmp_path, make):
    task = quick(MNLI)
    write_all(tmp_path, task, hub=False, train=48, other=24)
    found = measure(task, make(), settings(tmp_path))
    assert [f"{each.split}/{each.metric}" for each in found] == [
        "validation/accuracy",
        "validation_mismatched/mismatched_accuracy",
    ]
    for each in found:
        assert each.n == 24
        assert each.baselines == {"majority": pytest.approx(1 / 3)}
        assert each.value >= 0.9
    (first,) = (tmp_path / "cache" / "glue").iterdir()
    assert sorted(path.name for path in first.iterdir()) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    for path in first.iterdir():
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert list(lines[0]) == ["index", "prediction"]
        assert [line["index"] for line in lines] == [str(i) for i in range(24)]
        split = next(each for each in MNLI.test if each.submission == path.name)
        truth = [each.target for each in samples(MNLI, 24, start=len(split.name))]
        right = [line["prediction"] == each for line, each in zip(lines, truth, strict=True)]
        assert sum(right) >= 0.9 * 24


def test_scores_are_learnt_and_written_from_0_to_5(tmp_path):
    task = quick(STSB, updates=60, rows=44)
    write_all(tmp_path, task, hub=True, train=44, other=22)
    found = measure(task, flava(), settings(tmp_path))
    # Of a single number in the text the score follows: learnt from sight, far from zero on others.
    assert [each.metric for each in found] == ["pearson", "spearman"]
    assert all(each.baselines == {"constant": 0.0} for each in found)
    (path,) = (tmp_path / "cache" / "glue").glob("*/STS-B.tsv")
    with path.open(newline="") as file:
        scores = [float(line["prediction"]) for line in csv.DictReader(file, delimiter="\t")]
    assert len(scores) == 22
    assert all(0 <= score <= 5 for score in scores)
    assert max(scores) > 1  # not left in [0, 1]


def test_the_median_of_seeds_is_reported_beside_each_and_kept(tmp_path):
    task = quick(SST2, seeds=3, updates=2)
    write_all(tmp_path, task, hub=True, train=16, other=20)
    found = measure(task, flava(), settings(tmp_path, seed=7))
    values = [figure(found, f"validation/accuracy_seed_{seed}").value for seed in (7, 8, 9)]
    assert figure(found, "validation/accuracy").value == median(values)
    runs = sorted((tmp_path / "cache" / "fine-tuned" / "sst2").iterdir())
    assert [run.name.rpartition("-")[0] for run in runs] == ["seed-7", "seed-8", "seed-9"]
    before = [run.stat().st_mtime_ns for run in runs]
    assert measure(task, flava(), settings(tmp_path, seed=7)) == found  # nothing is done again
    assert [run.stat().st_mtime_ns for run in runs] == before
    assert not list(runs[0].rglob("state"))


def test_a_few_rows_have_one_seed_and_no_predictions_for_the_server(tmp_path):
    task = quick(COLA, seeds=5, updates=4, rows=48)
    write_all(tmp_path, task, hub=False, train=48, other=24)
    found = measure(task, flava(), settings(tmp_path, few=12))
    assert [each.metric for each in found] == ["matthews", "accuracy"]
    assert {each.n for each in found} == {12}
    assert not (tmp_path / "cache" / "glue").exists()


def test_missing_files_are_named_before_anything_is_trained(tmp_path):
    folder = write_all(tmp_path, RTE, hub=False)
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"RTE is incomplete") as error:
        measure(RTE, flava(), settings(tmp_path))
    assert "train.tsv" in str(error.value)
    assert "dev.tsv" in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_the_recipe_is_robertas_and_shrinks_with_the_data():
    whole = _recipe_for(RTE.recipe, 2_490)
    assert (whole.max_steps, whole.schedule.warmup_steps, whole.batch_size) == (2_036, 122, 16)
    assert (whole.optimizer.beta2, whole.optimizer.eps, whole.optimizer.lr) == (0.98, 1e-6, 2e-5)
    part = _recipe_for(RTE.recipe, 249)
    assert (part.max_steps, part.schedule.warmup_steps) == (204, 12)


def test_a_submission_has_the_servers_words(tmp_path):
    rows = figures_rows(3)
    write_submission(tmp_path / "RTE.tsv", RTE, rows, torch.tensor([[1.0, 0], [0, 1], [2, 1]]))
    assert (tmp_path / "RTE.tsv").read_bytes() == (
        b"index\tprediction\n0\tentailment\n1\tnot_entailment\n2\tentailment\n"
    )
    write_submission(tmp_path / "STS-B.tsv", STSB, rows, torch.tensor([[-0.1], [0.5], [1.2]]))
    assert (tmp_path / "STS-B.tsv").read_bytes() == (
        b"index\tprediction\n0\t0.000\n1\t2.500\n2\t5.000\n"
    )


def figures_rows(count: int) -> list[LabelledRow]:
    return [LabelledRow(shard="s", key=str(i), label="0") for i in range(count)]


def test_no_figure_of_another_split_has_the_name_that_fills_the_row():
    rows = figures_rows(4)
    found = _figures(
        replace(MNLI, classes=("0", "1")), MNLI.validation[1], rows, [{"accuracy": 1.0}], range(1)
    )
    assert [each.metric for each in found] == ["mismatched_accuracy"]

"""What is trained for the comparison: the command line's arguments mean the same run."""

from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from flava.cli.train import recipe_choice
from flava.recipes import RECIPES
from flava.recipes.columns import COLUMNS
from flava.reproduction.trials import QUICK, STAGES, Trial, trained_columns, trials
from flava.training.run import Run

NAMES = (*STAGES, *trained_columns())
CHOICE = recipe_choice()


def planned(folder: Path, seed: int = 2, *, quick: bool = False) -> dict[str, Trial]:
    return {t.name: t for t in trials(NAMES, folder, seed, quick=quick)}


def test_every_column_and_stage_is_trained_once() -> None:
    assert sorted(trained_columns()) == sorted(COLUMNS)
    assert not set(STAGES) & set(COLUMNS)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_are_read_back_as_the_same_run(
    tmp_path: Path, name: str, quick: bool
) -> None:
    trial = planned(tmp_path, quick=quick)[name]
    arguments = [trial.recipe, *trial.overrides(), "--resume"]
    assert tyro.cli(CHOICE, args=arguments) == trial.run


def test_a_trial_is_its_recipe_but_for_seed_place_and_stages(tmp_path: Path) -> None:
    for trial in planned(tmp_path).values():
        whole = RECIPES[trial.recipe]()
        assert trial.run == replace(
            whole,
            seed=2,
            resume=True,
            output_dir=tmp_path / "seed-2" / trial.name,
            init=trial.run.init,
        )
        assert trial.run.init.codebook == whole.init.codebook


def test_columns_start_from_the_stages_of_their_own_seed(tmp_path: Path) -> None:
    found = planned(tmp_path, seed=1)
    home = tmp_path / "seed-1"
    for name in ("flava-c", "flava-mm", "flava"):
        assert (found[name].run.init.image, found[name].run.init.text) == (None, None)
        for method in ("beit", "dino"):
            init = found[f"{name}-{method}"].run.init
            assert init.image == str(found[f"image-{method}"].folder)
            assert init.text == str(home / "text-mlm")


def test_columns_of_pairs_see_as_many_batches_of_them(tmp_path: Path) -> None:
    def drawn(run: Run) -> int:
        weights = run.data.weights
        paired = next(iter(weights)) if len(weights) == 1 else "pairs"
        return round(run.max_steps * weights[paired] / sum(weights.values()))

    found = planned(tmp_path)
    assert {drawn(found[name].run) for name in COLUMNS} == {805}


def test_quick_makes_a_tenth(tmp_path: Path) -> None:
    whole, quick = planned(tmp_path), planned(tmp_path, quick=True)
    for name in NAMES:
        few, all_of_them = quick[name].run, whole[name].run
        assert few.max_steps == pytest.approx(all_of_them.max_steps / QUICK, abs=1)
        assert few.schedule.warmup_steps < few.max_steps

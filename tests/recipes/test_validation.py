"""What chooses a run's best checkpoint, from the command to the figures and the links."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flava.data.data_config import DataConfig
from flava.data.imagenet import WNIDS
from flava.evaluation import prompts
from flava.methods import Validator
from flava.models import Codebook
from flava.objectives import CodebookObjectiveConfig
from flava.recipes.start import start
from flava.training.checkpoint import save_checkpoint
from flava.training.initialization import InitConfig
from flava.training.run import RUN, Run
from flava.training.trainer_config import load_config, save_config
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, pair_files, picture, write_tar
from tests.tiny_runs import CODEBOOK, FLAVA_ARGUMENTS, codebook_run, flava_data, flava_run, rows

IDS = WNIDS.read_text().split()
FIGURE = "validation/imagenet_zero_shot_accuracy"


@pytest.fixture
def flava(capsys) -> Command:
    return in_this_process(capsys)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    codebook = save_checkpoint(tmp_path, "codebook", Codebook(CODEBOOK))
    data = replace(flava_data(tmp_path / "shards"), root=str(tmp_path / "data"))
    made = flava_run(tmp_path / "run", data, init=InitConfig(codebook=str(codebook)), max_steps=2)
    return replace(made, validate_every=2)


def some_classes(folder: Path) -> Path:
    for n in (0, 7, 999):
        (folder / IDS[n]).mkdir(parents=True)
        picture(n).save(folder / IDS[n] / f"{n}.png")
    return folder


@pytest.fixture
def few_templates(monkeypatch) -> None:
    """Two of the eighty, where the figure itself does not matter."""
    imagenet = prompts.PROMPTS["imagenet"]
    few = replace(imagenet, templates=imagenet.templates[:2])
    monkeypatch.setitem(prompts.PROMPTS, "imagenet", few)


# ImageNet-1k


def test_the_figure_is_that_of_flava_evaluate_on_the_same_checkpoint(
    flava: Command, run: Run, tmp_path: Path
) -> None:
    """Of 1,000 classes and 80,000 prompts, in the run's precision."""
    image = tmp_path / "same.png"
    picture(1).save(image)
    for split in ("train", "val"):
        for n, wnid in enumerate(IDS):
            inside = tmp_path / "data" / "imagenet" / split / wnid
            inside.mkdir(parents=True)
            if split == "val" and n % 5 == 0:
                picture(n).save(inside / f"{n}.png")
            else:
                os.link(image, inside / f"{n}-{split}.png")
    start(replace(run, validator=Validator.IMAGENET))
    (probed,) = [row for row in rows(run.output_dir) if FIGURE in row]
    evaluated = flava(
        "evaluate",
        run.output_dir,
        "--tasks=zero_shot_imagenet",
        f"--data-root={tmp_path / 'data'}",
    )
    assert evaluated.status == 0, evaluated.error
    (line,) = (run.output_dir / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["value"] == probed[FIGURE]
    assert json.loads(line)["n"] == 1000
    assert 0 < probed[FIGURE] < 1
    best = run.output_dir / "checkpoints" / "best"
    assert best.resolve().name == "step-000002"


@pytest.mark.usefixtures("few_templates")
def test_what_is_looked_at_is_said(run: Run, tmp_path: Path, capsys) -> None:
    folder = some_classes(tmp_path / "val")
    start(replace(run, validator=Validator.IMAGENET, validation=(str(folder),)))
    said = "validation: 3 images of 3 classes of ImageNet-1k (which has 50,000 of 1,000), from"
    assert f"{said} {folder}" in capsys.readouterr().out
    assert any(FIGURE in row for row in rows(run.output_dir))


@pytest.mark.parametrize("recipe", ["flava", "flava-c-local", "clip-pmd"])
def test_images_that_are_missing_stop_the_start_with_the_command_that_builds_them(
    flava: Command, tmp_path: Path, recipe: str
) -> None:
    ended = flava("train", recipe, "--data.root", tmp_path / "data", "--output-dir", tmp_path / "r")
    assert ended.status == 1
    assert "validator is imagenet: there are no validation images of ImageNet-1k" in ended.error
    command = (
        "flava data build imagenet-1k --annotations FILES --output "
        f"{tmp_path / 'data'}/imagenet-1k-val"
    )
    assert command in ended.error
    assert not (tmp_path / "r").exists()
    other = flava(
        "train", recipe, "--validator=none", f"--data.root={tmp_path}", f"--output-dir={tmp_path}/r"
    )
    assert "imagenet-1k-val" not in other.error


# The others


def pairs_run(run: Run, tmp_path: Path) -> Run:
    validation = write_tar(tmp_path / "held-out.tar", pair_files(range(20, 31)))
    return replace(run, validator=Validator.PAIRS, validation=(str(validation),))


def test_held_out_pairs_choose_by_retrieval(run: Run, tmp_path: Path) -> None:
    start(pairs_run(run, tmp_path))
    (probed,) = [row for row in rows(run.output_dir) if "validation/held_out_r@5" in row]
    both = (
        probed["validation/held_out_image_to_text_r@5"],
        probed["validation/held_out_text_to_image_r@5"],
    )
    assert probed["validation/held_out_r@5"] == sum(both) / 2
    assert (run.output_dir / "checkpoints" / "best").exists()


def test_without_a_validator_there_is_no_best_checkpoint(run: Run) -> None:
    start(run)
    assert not any(name.startswith("validation/") for row in rows(run.output_dir) for name in row)
    assert not (run.output_dir / "checkpoints" / "best").exists()


def test_it_is_chosen_on_the_command_line(flava: Command, run: Run, tmp_path: Path) -> None:
    validation = write_tar(tmp_path / "held-out.tar", pair_files(range(20, 31)))
    shards = [f"--data.{n}.shards={getattr(run.data, n).shards[0]}" for n in ("pairs", "images")]
    ended = flava(
        "train",
        "flava-tiny",
        *FLAVA_ARGUMENTS,
        *shards,
        f"--data.text.shards={run.data.sources['text'].shards[0]}",
        f"--init.codebook={run.init.codebook}",
        f"--output-dir={run.output_dir}",
        "--max-steps=1",
        "--validator=pairs",
        f"--validation={validation}",
    )
    assert ended.status == 0, ended.error
    assert load_config(run.output_dir / "run.json", Run).validator is Validator.PAIRS
    assert "validation/held_out_r@5" in rows(run.output_dir)[-1]


@pytest.mark.usefixtures("few_templates")
def test_a_run_may_go_on_with_another(run: Run, tmp_path: Path) -> None:
    """Its best so far says nothing of the new figure, which is lower here."""
    start(pairs_run(run, tmp_path))
    folder = some_classes(tmp_path / "val")
    imagenet = replace(run, validator=Validator.IMAGENET, validation=(str(folder),))
    start(replace(imagenet, resume=True, max_steps=4))
    found = rows(run.output_dir)
    assert [r["step"] for r in found if "validation/held_out_r@5" in r] == [2]
    assert [r["step"] for r in found if FIGURE in r] == [4]
    assert (run.output_dir / "checkpoints" / "best").resolve().name == "step-000004"


def test_other_held_out_pairs_are_another_figure(run: Run, tmp_path: Path) -> None:
    start(pairs_run(run, tmp_path))
    edit_progress(run, best=1.0)
    start(replace(pairs_run(run, tmp_path), resume=True, max_steps=4))
    assert best(run) == "step-000002"
    edit_progress(run, best=1.0)
    other = write_tar(tmp_path / "other.tar", pair_files(range(40, 60)))
    again = replace(pairs_run(run, tmp_path), validation=(str(other),))
    start(replace(again, resume=True, max_steps=6))
    assert best(run) == "step-000006"


def best(run: Run) -> str:
    return (run.output_dir / "checkpoints" / "best").resolve().name


def edit_progress(run: Run, **changes: Any) -> None:
    path = run.output_dir / "checkpoints" / "last" / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_the_best_of_a_run_of_an_earlier_version_stays(run: Run) -> None:
    """Its progress does not tell what the figure is of, nor does its run.json: it is known."""
    embedded = replace(run, validator=Validator.EMBEDDED)
    start(embedded)
    edit_progress(run, best=0.99)
    path = run.output_dir / "checkpoints" / "last" / "progress.json"
    progress = json.loads(path.read_bytes())
    del progress["best_of"]
    path.write_text(json.dumps(progress))
    saved = json.loads((run.output_dir / "run.json").read_bytes())
    del saved["validator"]
    (run.output_dir / "run.json").write_text(json.dumps(saved))
    start(replace(embedded, resume=True, max_steps=4))
    assert best(run) == "step-000002"


@pytest.mark.parametrize(
    ("validator", "validation", "said"),
    [
        (Validator.PAIRS, (), "validator is pairs, but validation is empty"),
        (
            Validator.LOSS,
            ("a.tar",),
            "validator is loss, which cannot measure a FlavaConfig: use imagenet",
        ),
        (Validator.NONE, ("a.tar",), "validation is set, but validator is none"),
        (Validator.EMBEDDED, ("a.tar",), "validation is set, but validator is embedded"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, validator: Validator, validation: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        flava_run(tmp_path, DataConfig(), validator=validator, validation=validation)


@pytest.mark.parametrize("validator", [Validator.IMAGENET, Validator.EMBEDDED, Validator.PAIRS])
def test_a_codebook_compares_no_images_with_texts(tmp_path: Path, validator: Validator) -> None:
    with pytest.raises(
        ValueError,
        match=f"validator is {validator.value}, which cannot measure a CodebookConfig: use none",
    ):
        codebook_run(tmp_path, validator=validator, validation=("a.tar",))


# Runs that were saved before runs named their validator


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Validator.EMBEDDED),
        ({"model": CODEBOOK, "objective": CodebookObjectiveConfig()}, Validator.NONE),
    ],
)
def test_an_earlier_run_had_the_embedded_corpus_or_nothing(
    tmp_path: Path, changes: dict[str, Any], expected: Validator
) -> None:
    run = flava_run(tmp_path, DataConfig(), init=InitConfig())
    save_config(replace(run, **changes), tmp_path / "run.json")
    saved = json.loads((tmp_path / "run.json").read_bytes())
    del saved["validator"]
    (tmp_path / "run.json").write_text(json.dumps(saved))
    assert load_config(tmp_path / "run.json", Run).validator is expected


def test_every_validator_comes_back_from_a_file(run: Run) -> None:
    for validator in Validator:
        named = ("a.tar",) if validator is Validator.PAIRS else ()
        if validator is not Validator.LOSS:
            made = replace(run, validator=validator, validation=named)
            assert RUN.validate_json(RUN.dump_json(made)) == made


@pytest.mark.usefixtures("few_templates")
def test_an_image_of_the_validation_set_need_not_be_readable(
    run: Run, tmp_path: Path, caplog
) -> None:
    folder = some_classes(tmp_path / "val")
    (folder / IDS[7] / "broken.png").write_bytes(encoded(picture(0))[:50])
    start(replace(run, validator=Validator.IMAGENET, validation=(str(folder),)))
    assert "validation: sample 2: image cannot be decoded" in caplog.text
    assert any(FIGURE in row for row in rows(run.output_dir))

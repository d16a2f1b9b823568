import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import docstring_parser
import pytest

from flava.cli import COMMANDS, load, main
from flava.models import Codebook
from flava.recipes import RECIPES
from flava.recipes.tiny import flava_tiny
from flava.training.checkpoint import save_checkpoint
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded, pair_files, picture, write_lines, write_tar
from tests.tiny_runs import CODEBOOK, CODEBOOK_ARGUMENTS, FLAVA_ARGUMENTS, rows

NOBODY = 65534


@pytest.fixture
def flava(capsys) -> Command:
    return in_this_process(capsys)


@pytest.fixture
def images(tmp_path) -> Path:
    return write_tar(tmp_path / "images.tar", {f"i{n}.png": encoded(picture(n)) for n in range(7)})


def codebook_command(output_dir: Path, shard: Path) -> list[str]:
    named = [f"--output-dir={output_dir}", f"--data.images.shards={shard}"]
    return ["train", "codebook-tiny", *named, *CODEBOOK_ARGUMENTS]


# Help


def test_the_installed_command_is_this_one():
    (script,) = entry_points(group="console_scripts", name="flava")
    assert script.load() is main


def test_help_shows_the_commands(flava):
    shown = flava("--help")
    assert shown.status == 0
    for expected in ("train", "evaluate", "report", "--resume", "report.html"):
        assert expected in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_says_of_each_command_what_the_command_says_of_itself(name):
    about = docstring_parser.parse(load(name).__doc__ or "").short_description or ""
    assert " ".join(about.split()) == COMMANDS[name][1]


def test_help_needs_no_pytorch():
    """It is what makes the answer immediate."""
    asked = "import sys; from flava.cli import main\ntry: main(['--help'])\nexcept SystemExit: "
    code = asked + "print('torch' in sys.modules, 'numpy' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "False False"


def test_the_help_of_train_shows_the_recipes_and_what_they_are(flava):
    shown = flava("train", "--help")
    assert shown.status == 0
    for expected in ("flava-tiny FLAVA's five objectives", "codebook-tiny The dVAE whose codes"):
        assert expected in shown.out


def test_the_help_of_a_recipe_shows_its_fields_with_meaning_and_default(flava):
    shown, run = flava("train", "flava-tiny", "--help"), flava_tiny()
    assert shown.status == 0
    assert run.data.pairs is not None
    for expected in (
        "--output-dir PATH Folder for the checkpoints, the metrics and the report of the run",
        "(default: runs/flava-tiny)",
        "--max-steps INT Number of optimizer steps to train for",
        "--seed INT Random seed of the initial weights",
        "--resume, --no-resume Continue from the last checkpoint",
        "--precision {bf16,fp32}",
        "--init.codebook",
        "--init.image",
        f"--optimizer.lr FLOAT Peak learning rate. (default: {run.optimizer.lr})",
        "--schedule.warmup-steps INT",
        "--model.image.width INT",
        "--data.pairs.shards",
        "--data.pairs.batch-size INT Samples in a batch, of all ranks together. (default: "
        f"{run.data.pairs.batch_size})",
    ):
        assert expected in shown.out


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_the_help_of_a_command_says_what_it_reads_and_writes(flava, command):
    shown = flava(command, "--help")
    assert shown.status == 0
    assert "run's folder, as given" in shown.out
    assert "with --output-dir" in shown.out


# Mistakes on the command line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "Expected one of {train, recipes, reproduce,"),
        ("teach", "train, recipes, reproduce, evaluate"),
        ("train", "Expected one of {flava-tiny, codebook-tiny,"),
        ("train flava-huge", "flava-tiny, codebook-tiny"),
        ("train flava-tiny --max-step 3", "--max-steps INT"),
        ("train flava-tiny --optimizer.learning-rate 3", "--optimizer.learning-rate"),
        ("train flava-tiny --max-steps many", "Error parsing --max-steps"),
        ("train flava-tiny --precision fp8", "Expected one of ('bf16', 'fp32')"),
        (
            "train flava-tiny --max-steps 0 --seed -1",
            "max_steps is 0: it should be greater than 0 seed is -1",
        ),
        ("train flava-tiny --optimizer.lr 0", "optimizer.lr is 0.0: it should be greater than 0"),
        ("train flava-tiny --model.image.heads 5", "image.heads is 5, which does not divide"),
    ],
)
def test_a_mistake_is_named_with_what_is_possible(flava, arguments, expected):
    ended = flava(*arguments.split())
    assert ended.status == 2
    assert expected in ended.error
    assert not ended.out.strip()


def test_a_mistake_ends_the_process_with_a_status_and_no_traceback():
    command = [sys.executable, "-m", "flava", "train", "flava-huge"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in RECIPES)
    assert "Traceback" not in ended.stderr


# Data and runs that are not there


def test_missing_data_is_an_error(flava, tmp_path):
    ended = flava(*codebook_command(tmp_path / "run", tmp_path / "nowhere.tar"))
    assert ended.status == 1
    assert f"no file '{tmp_path}/nowhere.tar'" in ended.error
    assert not (tmp_path / "run").exists()


def test_a_shard_missing_from_the_corpus_is_an_error_that_lists_what_there_is(flava, tmp_path):
    ended = flava(*codebook_command(tmp_path / "run", Path("embedded:images/notoo-train.tar")))
    assert ended.status == 1
    assert "no file 'images/notoo-train.tar'" in ended.error
    assert "in the embedded corpus; there are images/" in ended.error


def test_an_empty_shard_is_an_error(flava, tmp_path):
    empty = write_tar(tmp_path / "empty.tar", {})
    ended = flava(*codebook_command(tmp_path / "run", empty))
    assert ended.status == 1
    assert "empty.tar: shard is empty" in ended.error
    assert "check images.shards" in ended.error


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything; nobody may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_shard_is_an_error(flava, tmp_path, images):
    images.chmod(0)
    with unprivileged():
        ended = flava(*codebook_command(tmp_path / "run", images))
    assert ended.status == 1
    assert str(images) in ended.error
    assert "Permission denied" in ended.error


@pytest.mark.parametrize("command", ["evaluate", "report"])
@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_a_missing_run_is_an_error(flava, tmp_path, command, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    ended = flava(command, tmp_path / name)
    assert ended.status == 1
    assert str(tmp_path / name) in ended.error
    assert "folder" in ended.error


def test_a_missing_stage_is_an_error_that_names_its_command(flava, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = flava("train", "flava-c-beit-tiny", "--init.image=runs/codebook-tiny")
    assert ended.status == 1
    assert "run `flava train codebook-tiny` first, or give --init.image" in ended.error
    assert not list(tmp_path.iterdir())


def test_a_missing_codebook_is_an_error(flava, tmp_path):
    named = [f"--output-dir={tmp_path / 'run'}", "--init.codebook=no/such/run"]
    ended = flava("train", "flava-tiny", *named, *FLAVA_ARGUMENTS)
    assert ended.status == 1
    assert "no checkpoint at no/such/run" in ended.error


def test_a_folder_in_use_is_an_error_and_a_finished_run_has_nothing_to_resume(
    flava, tmp_path, images
):
    command = [*codebook_command(tmp_path / "run", images), "--max-steps=2"]
    ended = flava(*command)
    assert ended.status == 0
    assert f"flava train flava-tiny --init.codebook {tmp_path}/run" in ended.out
    ended = flava(*command)
    assert ended.status == 1
    assert "already holds a run: add --resume" in ended.error
    ended = flava(*command, "--resume", "--optimizer.lr=0.5", "--seed=3")
    assert ended.status == 1
    assert "optimizer.lr: " in ended.error
    assert "seed: 0 in the saved run, 3 now" in ended.error
    assert flava(*command, "--resume").status == 0
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2]


# Data with faults


def test_long_texts_and_broken_images_are_trained_on_or_reported(
    flava, tmp_path, images, caplog, monkeypatch
):
    monkeypatch.setattr("flava.recipes.start.embedded_validator", lambda _: None)
    files = pair_files(range(8))
    files["00003.png"] = files["00003.png"][:60]
    files["00005.json"] = b'{"captions": ["' + b"word " * 10_000 + b'"]}'
    pairs = write_tar(tmp_path / "pairs.tar", files)
    texts = write_lines(tmp_path / "text.jsonl", ["word " * 10_000, "a short one"])
    codebook = save_checkpoint(tmp_path, "codebook", Codebook(CODEBOOK))
    with caplog.at_level(logging.WARNING):
        ended = flava(
            "train",
            "flava-tiny",
            *FLAVA_ARGUMENTS,
            "--max-steps=9",
            "--data.images.weight=1",
            "--data.text.weight=1",
            f"--output-dir={tmp_path / 'run'}",
            f"--init.codebook={codebook}",
            f"--data.pairs.shards={pairs}",
            f"--data.images.shards={images}",
            f"--data.text.shards={texts}",
        )
    assert ended.status == 0, ended.error
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == list(range(1, 10))
    assert {row["batch"] for row in found} == {"pairs", "images", "text"}
    assert "pairs: skipped pairs.tar: 00003: image cannot be decoded" in caplog.text
    assert "data.pairs: samples were skipped (" in caplog.messages[-1]
    assert "times: image cannot be decoded)" in caplog.messages[-1]


# Being stopped; see end_to_end/test_stopped.py


def test_ctrl_c_before_the_first_update_is_no_traceback(flava, tmp_path, images, monkeypatch):
    def stop(_run: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flava.cli.train.start", stop)
    ended = flava(*codebook_command(tmp_path / "run", images))
    assert ended.status == 130
    assert "flava: stopped" in ended.error

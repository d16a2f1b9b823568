import json
import signal
from pathlib import Path

import pytest

from flava.cli import main
from flava.training.trainer import Trainer
from tests.finetuning.labelled_files import write_model, write_table
from tests.tiny_runs import one_line


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    write_model(folder)
    write_table(folder / "text.csv", "text", "label")
    return folder


def arguments(bench: Path, run: Path, *more: str) -> list[str]:
    return [
        "finetune",
        f"--model={bench / 'model'}",
        f"--data={bench / 'text.csv'}",
        f"--output-dir={run}",
        "--optimizer.lr=4e-3",
        "--precision=fp32",
        "--workers=0",
        *more,
    ]


def test_one_command_each_to_probe_and_to_use_what_it_made(bench, tmp_path, capsys):
    run, output = tmp_path / "run", tmp_path / "out.jsonl"
    asked = arguments(bench, run)[1:4]
    assert main(["probe", *asked]) == 0
    said = capsys.readouterr().out
    assert "validation accuracy 0." in said
    assert "n = 20)" in said
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert "Linear probe" in (run / "report.html").read_text()
    assert (
        main(["predict", f"--model={run}", f"--data={bench / 'text.csv'}", f"--output={output}"])
        == 0
    )
    lines = [json.loads(line) for line in output.open()]
    assert len(lines) == 102
    assert f"predicted 102: {output}" in one_line(capsys.readouterr().out)


def test_ctrl_c_says_how_to_go_on_and_leaves_a_report_to_make(bench, tmp_path, monkeypatch, capsys):
    run, look = tmp_path / "run", Trainer.look

    def looks(self, *given) -> None:
        look(self, *given)
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("flava.training.trainer.Trainer.look", looks)
        assert main(arguments(bench, run, "--epochs=1")) == 130
    assert "run the same command with --resume" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Training stopped after 2 of 3 steps." in page
    assert "go on with the same command and --resume" in page
    assert main(arguments(bench, run, "--epochs=1", "--resume")) == 0
    assert "validation accuracy" in capsys.readouterr().out


def test_bad_input_is_one_error_and_no_traceback(bench, tmp_path, capsys):
    status = main(arguments(bench, tmp_path / "run", "--epochs=-1", "--validation=nowhere.csv"))
    said = one_line(capsys.readouterr().err)
    assert status == 1
    assert "epochs is -1.0" in said
    assert "validation: no data at nowhere.csv" in said
    assert "Traceback" not in said


def test_help_names_the_fields(capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    said = one_line(capsys.readouterr().out)
    for part in ("--validation-fraction", "--optimizer.lr", "--epochs", "--resume"):
        assert part in said

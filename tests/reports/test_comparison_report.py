import csv
import re
from pathlib import Path

import pytest

from flava.evaluation.record import Evaluation
from flava.reports.comparison_report import write_comparison
from flava.suite.comparison import ROWS
from tests.suite.test_comparison import evaluation


@pytest.fixture
def columns() -> dict[str, list[Evaluation]]:
    return {
        "mim": [evaluation(0.3, groups=("vision",))] * 2,
        "flava-c-local": [evaluation(0.4), evaluation(0.42)],
        "flava-c": [evaluation(0.6), evaluation(0.64)],
        "image-<b>": [evaluation(0.2, groups=("vision",))] * 2,
    }


def test_the_csv_holds_every_figure(tmp_path: Path, columns: dict[str, list[Evaluation]]) -> None:
    write_comparison(columns, [], [], tmp_path)
    with (tmp_path / "reproduction.csv").open() as file:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(file)}
    for row in ROWS:
        found = lines[row.title, "flava-c"]
        assert float(found["value"]) == pytest.approx(0.62)
        assert [float(seed) for seed in found["seeds"].split()] == [0.6, 0.64]
        assert ((row.title, "mim") in lines) == (row.group == "vision")
    assert float(lines["Vision average", "mim"]["value"]) == pytest.approx(0.3)
    assert ("NLP average", "mim") not in lines


def test_the_markdown_tables_are_whole(
    tmp_path: Path, columns: dict[str, list[Evaluation]]
) -> None:
    write_comparison(columns, [], ["a note"], tmp_path)
    text = (tmp_path / "reproduction.md").read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({line.count(" |") for line in table.splitlines()[2:]}) == 1
    assert "| Vision average | 30.0 ± 0.0 | 41.0 ± 1.4 | 62.0 ± 2.8 | 20.0 ± 0.0 |" in text
    assert "a note" in text


def test_the_page_marks_the_best_says_what_is_missing_and_escapes(
    tmp_path: Path, columns: dict[str, list[Evaluation]]
) -> None:
    html = write_comparison(columns, [("seeds", "2")], ["<script>"], tmp_path).read_text()
    assert "<strong>62.0 ± 2.8</strong>" in html
    assert "<strong>41.0" not in html
    assert "<script>" not in html
    assert "image-\u200b&lt;b&gt;" in html
    # Of the items sqrt(0.62 * 0.38 / 400) and sqrt(0.41 * 0.59 / 400), of the seeds 0.014 / sqrt 2.
    assert f"+21.0 ± {200 * (0.0243**2 + 0.0246**2 + 0.01**2) ** 0.5:.1f}" in html
    assert "Rank correlation with the paper over 3 columns: +1.00." in html


def test_one_seed_is_called_one(tmp_path: Path) -> None:
    columns = {"flava": [evaluation(0.4)], "flava-mm": [evaluation(0.41)]}
    html = write_comparison(columns, [], [], tmp_path).read_text()
    assert "What another seed would change is not known" in html
    assert "within the noise" in html

"""The table in all its forms, against figures worked out here from the CSV and by hand."""

import csv
import io
import re
from html import unescape
from pathlib import Path
from statistics import mean

import pandas as pd
import pytest
from rich.console import Console

from flava.reports.suite_report import _bar_chart, is_suite, report_suite
from flava.reports.suite_table import (
    _difference_colour,
    as_csv,
    as_markdown,
    make_table,
    percent,
    points,
    read_result_files,
    terminal_table,
)
from flava.suite import paper
from flava.suite.results_file import FILE, add_results
from tests.reports.test_run_report import HOSTILE, Page
from tests.suite.tasks import result

TABLE = pd.read_csv(paper.TABLES / "table_c1.csv")
PUBLISHED: dict[str, float] = dict(zip(TABLE["task"], TABLE["flava-dino"], strict=True))

ROWS = {group: [r.task for r in paper.rows() if r.group == group] for group in paper.GROUPS}


def full(offset: float, **changes):
    """A column that differs from the paper's in every row by so many percentage points."""
    return [
        result(row.task, (PUBLISHED[row.task] + offset) / 100, **changes) for row in paper.rows()
    ]


def two_columns():
    """One model with all rows 2 points above, one with four rows and a figure that is none."""
    few = [
        result("MNIST", 0.5),
        result("ImageNet", 0.75),
        result("RTE", 0.40, metric="accuracy"),
        result("COLA", -0.10, metric="matthews"),
        result(None, 0.33, task="zero_shot_imagenet"),
    ]
    return [*full(2, model="runs/all", weights="b" * 64), *few]


def test_rows_are_the_papers_and_blank_where_not_measured():
    table = make_table(two_columns(), "flava-dino")
    assert [each.label for each in table.columns] == ["runs/all", "runs/one"]
    assert [each.group for each in table.sections] == ["vision", "nlp", "multimodal"]
    lines = {line.label: line for section in table.sections for line in section.lines}
    assert list(lines) == [row.task for row in paper.rows()]
    for name, line in lines.items():
        assert line.paper == PUBLISHED[name]
        assert line.cells[0] == pytest.approx(PUBLISHED[name] + 2)
        assert line.differences[0] == pytest.approx(2)
    measured = {name: line.cells[1] for name, line in lines.items() if line.cells[1] is not None}
    assert measured == pytest.approx({"ImageNet": 75, "MNIST": 50, "COLA": -10, "RTE": 40})
    assert lines["COLA"].differences[1] == pytest.approx(-10 - 50.65)
    assert lines["MNLI"].differences[1] is None


def test_averages_are_over_the_rows_that_every_column_has():
    table = make_table(two_columns(), "flava-dino")
    vision, nlp, multimodal, two, three = table.averages
    published = (PUBLISHED["ImageNet"] + PUBLISHED["MNIST"]) / 2, (50.65 + 53.07) / 2
    assert vision.label == "Vision average, 2 of 22 rows"
    assert vision.paper == pytest.approx(published[0])
    assert vision.cells == pytest.approx((published[0] + 2, 62.5))
    assert nlp.label == "NLP average, 2 of 8 rows"
    assert nlp.paper == pytest.approx(published[1])
    assert nlp.cells == pytest.approx((published[1] + 2, 15))
    assert multimodal.label == "Multimodal average, 0 of 11 rows"
    assert (multimodal.paper, multimodal.cells) == (None, (None, None))
    assert two.label == "Macro average of vision and NLP (as in Table C.1), 4 of 30 rows"
    assert two.paper == pytest.approx(mean(published))
    assert two.cells == pytest.approx((mean(published) + 2, 38.75))
    assert three.label == "Macro average of all three groups (as in Table D.1), 4 of 41 rows"
    assert (three.paper, three.cells) == (None, (None, None))


def test_averages_of_whole_columns_are_the_groups_means():
    table = make_table(full(-1.5), "flava-dino")
    means = [mean(PUBLISHED[name] for name in ROWS[group]) for group in paper.GROUPS]
    expected = [*means, mean(means[:2]), mean(means)]
    for line, value, count in zip(table.averages, expected, (22, 8, 11, 30, 41), strict=True):
        assert line.label.endswith(f", {count} rows")
        assert line.paper == pytest.approx(value)
        assert line.cells == pytest.approx((value - 1.5,))


def test_a_column_of_the_papers_that_lacks_a_group_is_averaged_without_it():
    table = make_table(full(0), "mim")
    vision, nlp, *_ = table.averages
    assert vision.paper == pytest.approx(57.46, abs=0.01)
    assert nlp.label == "NLP average, 0 of 8 rows"
    assert nlp.cells == (None,)


def test_columns_are_told_apart_by_what_they_differ_in():
    plain = {"few": None, "seed": 0, "precision": "bf16", "batch_size": 64, "data_root": "/a"}
    results = [
        result("MNIST", 0.1, settings=plain),
        result("CIFAR10", 0.2, settings=plain | {"data_root": "/b", "batch_size": 32}),
        result("MNIST", 0.3, settings=plain | {"seed": 1}),
        result("MNIST", 0.4, settings=plain | {"few": 100}),
        result("MNIST", 0.5, weights="c" * 64, settings=plain),
        result("MNIST", 0.6, model=f"/home/{'x' * 60}/run", weights="d" * 64, settings=plain),
        result("MNIST", 0.7, settings=plain),
    ]
    columns = make_table(results, "flava").columns
    labels = [column.label for column in columns]
    assert labels[0] == "runs/one [seed 0, weights aaaaaaaa]"
    assert labels[1] == "runs/one [seed 1, weights aaaaaaaa]"
    assert labels[2] == "runs/one (few: 100)"
    assert labels[3] == "runs/one [seed 0, weights cccccccc]"
    assert labels[4].endswith("xxx/run")
    assert len(labels[4]) == 40
    # The same row twice in a column: the last one is the column's.
    assert columns[0].cells == pytest.approx({"MNIST": 70, "CIFAR10": 20})


def test_an_unknown_column_of_the_paper_lists_them():
    with pytest.raises(ValueError, match=r"no column 'flava-tiny'.*mim, mlm, flava-c-local"):
        make_table(full(0), "flava-tiny")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "\u2013"), (75.546, "75.55"), (-10.0, "\u221210.00"), (0.0, "0.00")]
)
def test_figures_are_printed_as_the_paper_does(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text", "colour"),
    [
        (None, "", ""),
        (1.234, "+1.23", "green"),
        (-1.235001, "\u22121.24", "red"),
        (0.0049, "0.00", ""),
        (-0.0049, "0.00", ""),
        (0.0051, "+0.01", "green"),
    ],
)
def test_differences_have_a_sign_and_a_colour(value, text, colour):
    assert points(value) == text
    assert _difference_colour(value) == colour


def plain_number(text: str) -> float | None:
    text = text.replace("\u2212", "-")
    return None if text in ("\u2013", "") else float(text)


def test_markdown_read_back_is_the_table():
    table = make_table(two_columns(), "flava-dino")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in as_markdown(table).splitlines()
        if line.startswith("|")
    ]
    titles, rule, *rows = rows
    assert titles == ["task", "paper: flava-dino", "runs/all", "Δ", "runs/one", "Δ"]
    assert rule == ["---", *["---:"] * 5]
    assert all(len(row) == len(titles) for row in rows)
    found = {row[0]: row[1:] for row in rows}
    assert len(found) == 41 + 5 + 4
    for section in table.sections:
        for line in section.lines:
            published, first, gain, second, loss = map(plain_number, found[line.label])
            assert published == PUBLISHED[line.label]
            assert first == pytest.approx(PUBLISHED[line.label] + 2, abs=0.005)
            assert gain == 2
            assert second == pytest.approx(line.cells[1], abs=0.005)
            assert loss == pytest.approx(line.differences[1], abs=0.005)
    assert found["Vision average, 2 of 22 rows"][3] == "62.50"


def test_names_cannot_break_the_markdown():
    hostile = "a | b\n| <img src=x> \\"
    text = as_markdown(make_table([result("MNIST", 0.5, model=hostile)], "flava"))
    (header,) = [line for line in text.splitlines() if line.startswith("| task")]
    cells = re.split(r"(?<!\\)\|", header.strip("|"))
    assert [cell.strip() for cell in cells] == [
        "task",
        "paper: flava",
        r"a \| b \| &lt;img src=x> \\",
        "Δ",
    ]


def test_csv_read_back_is_the_table():
    table = make_table(two_columns(), "flava-dino")
    found = pd.read_csv(io.StringIO(as_csv(table))).set_index("task")
    assert list(found.columns) == ["group", "paper: flava-dino", "runs/all", "runs/one"]
    assert list(found.index[:41]) == [row.task for row in paper.rows()]
    assert list(found["group"][41:]) == ["average"] * 5
    for row in paper.rows():
        assert found.loc[row.task, "group"] == row.group
        assert found.loc[row.task, "runs/all"] == pytest.approx(PUBLISHED[row.task] + 2)
    assert found["runs/one"].dropna().to_dict() == pytest.approx(
        {
            "ImageNet": 75,
            "MNIST": 50,
            "COLA": -10,
            "RTE": 40,
            "Vision average, 2 of 22 rows": 62.5,
            "NLP average, 2 of 8 rows": 15,
            "Macro average of vision and NLP (as in Table C.1), 4 of 30 rows": 38.75,
        }
    )
    odd = 'a,"b"\nc'
    text = as_csv(make_table([result("MNIST", 0.5, model=odd)], "flava"))
    assert next(csv.reader(io.StringIO(text)))[3] == odd


def test_the_terminal_shows_every_row_with_sign_and_colour():
    console = Console(width=200, file=io.StringIO(), record=True, force_terminal=True)
    console.print(
        terminal_table(make_table([*two_columns(), result("SST", 0.6, model="[red]x")], "flava"))
    )
    text = console.export_text(clear=False)
    lines = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines()]
    cells = {line[0]: line[1:] for line in lines if line}
    assert {row.task for row in paper.rows()} <= set(cells)
    assert cells["MNIST"][0] == "98.70"
    assert cells["MNIST"][1].split() == ["100.42", "+1.72"]
    assert cells["MNIST"][2].split() == ["50.00", "\u221248.70"]
    assert cells["MNLI"][2] == "\u2013"
    styled = console.export_text(styles=True)
    assert "\x1b[32m  +1.72" in styled
    assert "\x1b[31m \u221248.70" in styled


def write(folder: Path, *results) -> Path:
    add_results(folder / FILE, results)
    return folder


def test_files_and_folders_are_read_and_every_mistake_is_told(tmp_path):
    one = write(tmp_path / "one", result("MNIST", 0.5))
    two = write(tmp_path / "two", result("RTE", 0.5))
    found = read_result_files([one, two / FILE])
    assert [each.row for each in found] == ["MNIST", "RTE"]
    (two / FILE).write_text("nonsense\n")
    with pytest.raises(ValueError) as caught:
        read_result_files([one, two, tmp_path / "three"])
    assert f"{two / FILE} holds lines that are no results" in str(caught.value)
    assert f"{tmp_path / 'three' / FILE} is missing" in str(caught.value)
    (two / FILE).write_text("")
    with pytest.raises(ValueError, match="there are no results in"):
        read_result_files([two])


def test_a_run_alone_is_no_result_of_the_suite(tmp_path):
    run = write(tmp_path / "run", result("MNIST", 0.5))
    assert is_suite([run])
    (run / "evaluation.json").write_text("{}")
    assert not is_suite([run])
    assert is_suite([run / FILE])
    assert is_suite([run, run])
    assert not is_suite([tmp_path / "nowhere"])


def page_of(tmp_path: Path, *results, column: str = "flava-dino") -> tuple[str, Page]:
    report_suite([write(tmp_path / "in", *results)], column, tmp_path / "out")
    html = (tmp_path / "out" / "table.html").read_text(encoding="utf-8")
    return html, Page(html)


def test_the_page_holds_the_table_the_charts_and_every_figure(tmp_path, capsys):
    html, page = page_of(tmp_path, *two_columns())
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "table.md",
        "table.csv",
        "table.html",
    }
    assert "MNIST" in capsys.readouterr().out
    assert page.open == []
    # One column is above in every row, and in the three averages that both can have.
    assert page.count("small", "good") == 41 + 3
    cells = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td>\n(.*?)</tr>', html, re.DOTALL)
    found = {unescape(name): (published, rest) for name, published, rest in cells}
    for row in paper.rows():
        published, rest = found[row.task]
        assert float(published) == PUBLISHED[row.task]
        assert f"<strong>{PUBLISHED[row.task] + 2:.2f}</strong>" in rest
        assert "▲ +2.00" in rest
    assert "▼ \u221248.42" in found["MNIST"][1]
    assert '<span class="none">\u2013</span>' in found["MNLI"][1]
    assert "Vision average, 2 of 22 rows" in found
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 4
    assert "zero_shot_imagenet" in page.text
    assert "41 of 41" in page.text
    assert "4 of 41" in page.text
    assert "a" * 64 in page.text
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert not (attributes.get(name) or "#").startswith("http"), tag


def test_a_trial_on_few_samples_is_called_one(tmp_path):
    settings = {"few": 1_000, "seed": 0, "precision": "bf16"}
    html, page = page_of(tmp_path, result("MNIST", 0.5, settings=settings))
    assert page.count("div", "note") == 1
    assert "runs/one (few: 1000) was measured on at most 1,000 samples" in page.text
    assert "Nothing of this was measured" in html


def test_hostile_names_are_text(tmp_path):
    hostile = result(
        "MNIST",
        0.5,
        model=HOSTILE[:40],
        task=HOSTILE,
        split=HOSTILE,
        metric=HOSTILE,
        machine={"processor": HOSTILE},
        baselines={HOSTILE: 0.2},
    )
    html, page = page_of(tmp_path, hostile)
    assert page.open == []
    assert "<script" not in html
    assert not any(tag == "img" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text


def test_bars_are_as_long_as_their_figures_and_the_mark_stands_at_the_papers():
    """In the coordinates of the drawing, whatever they are: lengths from the left axis."""
    table = make_table([result("MNIST", 0.5), result("SST", 0.25)], "flava")
    svg = _bar_chart("vision", table.sections[0].lines)
    assert svg is not None
    bars = [
        [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
        for path in re.findall(
            r'<path d="([^"]*)" clip-path="[^"]*" style="fill: var\(--series-1\)', svg
        )
    ]
    marks = [
        float(x)
        for x in re.findall(
            r'<path d="M ([\d.]+) [\d.]+ \nL \1 [\d.]+ \n" clip-path="[^"]*" style="fill: none; '
            r"stroke: var\(--ink\)",
            svg,
        )
    ]
    left = min(bars[0])
    lengths = [max(bar) - min(bar) for bar in bars]
    assert lengths[0] == pytest.approx(2 * lengths[1], rel=1e-3)
    whole = 2 * lengths[0]
    assert [100 * (mark - left) / whole for mark in marks] == pytest.approx([98.70, 56.40], abs=0.1)

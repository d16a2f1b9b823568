"""Table C.1 and D.1 as shipped, against a second reading of the files and their own averages."""

import tomllib
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pandas as pd
import pytest

from flava.suite import paper
from flava.suite.paper import averages

TABLE = pd.read_csv(paper.TABLES / "table_c1.csv").set_index("task")
"""An independent reader."""

GROUPS = {
    "vision": ("Vision Avg.", 22),
    "nlp": ("NLP Avg.", 8),
    "multimodal": ("Multimodal Avg.", 11),
}

TOLERANCE = 0.01
"""Rows are rounded to 0.01, so their mean is at most 0.005 off, and the printed mean again."""


def recomputed(column: str, group: str) -> Decimal | None:
    """The mean of a group's rows in exact arithmetic."""
    cells = [
        Decimal(f"{cell:.2f}")
        for cell in TABLE.loc[TABLE["group"] == group, column]
        if not pd.isna(cell)
    ]
    return sum(cells, Decimal(0)) / len(cells) if cells else None


def test_the_table_has_41_rows_and_14_columns():
    assert len(paper.rows()) == 41
    assert len({row.task for row in paper.rows()}) == 41
    for group, (_, count) in GROUPS.items():
        assert sum(row.group == group for row in paper.rows()) == count
    assert paper.columns() == tuple(TABLE.columns[1:])
    assert len(paper.columns()) == 14


def test_every_cell_is_the_files():
    for column in paper.columns():
        there = {}
        for row in paper.rows():
            cell = TABLE.loc[row.task, column]
            assert paper._value(row.task, column) == (None if pd.isna(cell) else cell)
            there |= {} if pd.isna(cell) else {row.task: cell}
        assert paper.values(column) == there


def test_known_cells():
    """Read off the supplement by eye."""
    assert paper._value("ImageNet", "flava-dino") == 75.54
    assert paper._value("MNLI", "mim") is None
    assert paper._value("COCO IR R@5", "clip-400m") == 58.37
    assert paper._value("Hateful Memes", "flava") == 77.45


def test_columns_are_the_recipes():
    from flava.recipes.columns import COLUMNS

    assert paper.columns() == (*COLUMNS, "clip-400m")


def test_averages_are_the_exact_means():
    for column in paper.columns():
        found = averages(paper.values(column))
        for average, group in zip(found, GROUPS, strict=False):
            expected = recomputed(column, group)
            if expected is None:
                assert average.value is None and average.n == 0
            else:
                assert average.value == pytest.approx(float(expected), abs=1e-9)
                assert average.n == average.total == GROUPS[group][1]
        means = [recomputed(column, group) for group in GROUPS]
        for average, parts in zip(found[3:], (means[:2], means), strict=True):
            known = [part for part in parts if part is not None]
            expected = float(sum(known) / len(parts)) if len(known) == len(parts) else None
            assert average.value == pytest.approx(expected, abs=1e-9)


def disagreements(name: str, computed: dict[str, Decimal | None]) -> set[str]:
    return {
        column
        for column, mean in computed.items()
        if mean is not None and abs(float(mean) - (paper._number(name, column) or 0)) > TOLERANCE
    }


def test_exactly_three_printed_group_averages_are_not_the_mean_of_their_rows():
    for group, (name, _) in GROUPS.items():
        computed = {column: recomputed(column, group) for column in paper.columns()}
        wrong = {"flava-beit", "flava-dino", "clip-pmd"} if group == "nlp" else set()
        assert disagreements(name, computed) == wrong
    for column, printed, mean in (
        ("flava-beit", 77.40, 78.17),
        ("flava-dino", 78.19, 77.61),
        ("clip-pmd", 46.44, 46.70),
    ):
        assert paper._number("NLP Avg.", column) == printed
        assert float(recomputed(column, "nlp") or 0) == pytest.approx(mean, abs=0.0051)


def test_two_more_differ_in_their_last_digit():
    """68.22625 is printed as 68.22, 79.595 as 79.59: the rows' own rounding allows both."""
    cent = Decimal("0.01")
    differ = {
        (column, group)
        for column in paper.columns()
        for group, (name, _) in GROUPS.items()
        if (mean := recomputed(column, group)) is not None
        and float(mean.quantize(cent, ROUND_HALF_EVEN)) != paper._number(name, column)
    }
    mistaken = {("flava-beit", "nlp"), ("flava-dino", "nlp"), ("clip-pmd", "nlp")}
    assert differ - mistaken == {("flava-c-dino", "nlp"), ("flava-c-dino", "vision")}


def test_printed_macro_averages_are_those_of_vision_and_nlp_as_printed():
    """And so three of them are not those of the rows; a missing group counts as 0."""
    from_printed, from_rows = {}, {}
    for column in paper.columns():
        pair = [paper._number(name, column) for name in ("Vision Avg.", "NLP Avg.")]
        from_printed[column] = sum(Decimal(str(mean or 0)) for mean in pair) / 2
        means = [recomputed(column, group) for group in ("vision", "nlp")]
        from_rows[column] = sum((mean or Decimal(0)) for mean in means) / 2
    assert disagreements("Macro Avg.", from_printed) == set()
    assert disagreements("Macro Avg.", from_rows) == {"flava-beit", "flava-dino", "clip-pmd"}


def test_table_d1_averages_all_three_groups():
    for line in paper._table("table_d1.csv"):
        printed = [float(line[f"{group}_avg"]) for group in GROUPS]
        names = [name for name, _ in GROUPS.values()]
        assert printed == [paper._number(name, line["column"]) for name in names]
        assert float(line["macro_avg"]) == pytest.approx(sum(printed) / 3, abs=TOLERANCE)
    computed = {
        line["column"]: averages(paper.values(line["column"]))[4].value
        for line in paper._table("table_d1.csv")
    }
    assert computed["flava-c-local"] == pytest.approx(68.51, abs=TOLERANCE)
    # The printed NLP average of this column is the one that is not its rows' mean.
    assert computed["clip-pmd"] == pytest.approx(61.61, abs=TOLERANCE)


def test_averages_of_part_of_a_column_say_so():
    found = averages({"MNLI": 80.0, "RTE": 60.0, "ImageNet": 50.0, "something else": 99.0})
    vision, nlp, multimodal, two, three = found
    assert (vision.value, vision.n, vision.total, vision.is_complete) == (50.0, 1, 22, False)
    assert (nlp.value, nlp.n, nlp.total) == (70.0, 2, 8)
    assert (multimodal.value, multimodal.n, multimodal.total) == (None, 0, 11)
    assert (two.value, two.n, two.total) == (60.0, 3, 30)
    assert (three.value, three.total) == (None, 41)


def test_an_unknown_row_or_column_lists_what_there_is():
    with pytest.raises(ValueError, match=r"no row 'Food'.*Food101, CIFAR10"):
        paper._value("Food", "flava")
    with pytest.raises(ValueError, match=r"no row 'NLP Avg\.'"):
        paper._value("NLP Avg.", "flava")
    with pytest.raises(ValueError, match=r"no column 'flava_dino'.*flava-dino, clip-pmd"):
        paper._value("Food101", "flava_dino")


def test_the_wheel_holds_the_tables():
    root = Path(__file__).parents[2]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = declared["package-data"]["flava"]
    package = root / "src" / "flava"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    assert {package / "suite/tables" / f"table_{t}.csv" for t in ("c1", "d1")} <= shipped

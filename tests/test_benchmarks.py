import json

import pytest
import torch
from benchmarks.measure import Measured, Result, compare, count_flops, joined
from benchmarks.report import replaced, write

PAGE = (
    "before\n<!-- training -->\nold\n<!-- /training -->\nbetween\n<!-- data -->\n<!-- /data -->\n"
)


def result(name: str, ours: float, peers: float, operations: int = 0) -> Result:
    return Result(
        name=name,
        contenders={
            "flava": Measured(values=[ours], flops=operations),
            "peer": Measured(values=[peers, 100.0, 0.0], flops=2 * operations),
        },
        goals={"peer": 1.5},
    )


def test_operations_are_two_a_multiplication_forwards_and_four_backwards():
    weight = torch.randn(5, 7, requires_grad=True)
    inputs = torch.randn(3, 5, requires_grad=True)
    assert count_flops(lambda: (inputs @ weight).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_contenders_take_turns_each_round_the_other_way_round():
    called = []
    calls = {name: lambda name=name: called.append(name) for name in ("flava", "peer")}
    found = compare("nothing", calls, {}, rounds=3)
    assert called[:2] == ["flava", "peer"]  # not timed
    assert called[2:] == ["peer", "flava", "flava", "peer", "peer", "flava"]
    assert [len(each.values) for each in found.contenders.values()] == [3, 3]


def test_a_ratio_is_of_medians():
    assert result("step", 2.0, 3.0).ratio("peer") == 3.0 / 2.0


def test_a_mixture_is_the_mean_step():
    found = joined("both", [(0.75, result("a", 1, 4, 100)), (0.25, result("b", 3, 8, 200))], {})
    assert found.contenders["flava"].median == 0.75 * 1 + 0.25 * 3
    assert found.contenders["peer"].median == 0.75 * 4 + 0.25 * 8
    assert found.flops_ratio("peer") == 2


def test_a_table_takes_its_place_in_the_page_and_others_stay(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(PAGE)
    write(page, "data", [result("reading", 1.0, 2.0)], threads=1)
    write(page, "training", [result("step", 2.0, 5.0)], threads=2)
    text = page.read_text()
    assert text.startswith("before\n<!-- training -->\n| work |")
    assert "old" not in text
    assert text.index("| step | peer | 2 s | 5 s | 2.50 | 1.50 |") < text.index("between\n")
    assert text.index("between\n") < text.index("| reading | peer | 1 s | 2 s | 2.00 | 1.50 |")
    figures = json.loads((tmp_path / "performance" / "figures.json").read_text())
    assert figures["training"]["results"][0]["ratios"] == {"peer": 2.5}
    assert figures["data"]["machine"]["threads"] == 1
    assert (tmp_path / "performance" / "ratios.svg").exists()


def test_a_page_without_the_place_is_an_error():
    with pytest.raises(ValueError, match="has no lines <!-- growth -->"):
        replaced(PAGE, "growth", "table")

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.measure import Measured, Result, compare, joined
from benchmarks.report import growth_chart, replaced, write
from benchmarks.turns import Here, process
from torch.nn.functional import scaled_dot_product_attention

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
    work = Here(lambda: (inputs @ weight).sum().backward())
    assert work.operations() == 3 * 2 * 3 * 5 * 7


def test_contenders_take_turns_each_round_the_other_way_round():
    called = []
    works = {name: Here(lambda name=name: called.append(name)) for name in ("flava", "peer")}
    found = compare("nothing", works, {}, rounds=3)
    assert called[:2] == ["flava", "peer"]  # not timed
    assert called[2:] == ["peer", "flava", "flava", "peer", "peer", "flava"]
    assert [len(each.values) for each in found.contenders.values()] == [3, 3]


def work_elsewhere() -> dict[str, Callable[[], object]]:
    weight = torch.ones(5, 7)
    return {"product": lambda: weight @ weight.T, "sleep": lambda: time.sleep(0.2)}


def test_work_is_done_in_another_process_and_timed_there():
    with process(work_elsewhere) as works:
        assert works["product"].operations() == 2 * 5 * 7 * 5
        assert 0.2 <= works["sleep"].seconds() < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_is_counted_as_if_it_were_spelt_out(dtype: torch.dtype):
    query, key, value = torch.randn(3, 2, 4, 16, 8, dtype=dtype)
    spelt = Here(lambda: (query @ key.mT).softmax(-1) @ value).operations()
    assert Here(lambda: scaled_dot_product_attention(query, key, value)).operations() == spelt


def test_whole_numbers_are_counted_as_floating_point_would_be():
    left, right = torch.ones(5, 8), torch.ones(8, 16)
    product = Here(lambda: torch.ops.aten._int_mm(left.to(torch.int8), right.to(torch.int8)))
    assert product.operations() == Here(lambda: left @ right).operations()


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
    write(page, "training", [result("step", 2.0, 5.0, 7 * 10**9)], threads=2)
    text = page.read_text()
    assert text.startswith("before\n<!-- training -->\n| work |")
    assert "old" not in text
    assert text.index("| step | peer | 2 s | 5 s | 2.50 | 1.50 | 7 / 14 | 2.00 |") < text.index(
        "between\n"
    )
    assert text.index("between\n") < text.index("| reading | peer | 1 s | 2 s | 2.00 | 1.50 |")
    figures = json.loads((tmp_path / "performance" / "figures.json").read_text())
    assert figures["training"]["results"][0]["ratios"] == {"peer": 2.5}
    assert figures["data"]["machine"]["threads"] == 1
    assert (tmp_path / "performance" / "ratios.svg").exists()


def test_a_page_without_the_place_is_an_error():
    with pytest.raises(ValueError, match="has no lines <!-- growth -->"):
        replaced(PAGE, "growth", "table")


def test_what_grows_is_drawn_beside_the_peer(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(PAGE.replace("data", "growth"))
    sizes = [1, 4, 16]
    found = [replace(result(f"{n}", n, 2 * n), of="images in a batch", size=n) for n in sizes]
    write(page, "growth", found, threads=1)
    picture = (tmp_path / "performance" / "growth.svg").read_text()
    assert "images in a batch" in picture
    axes = growth_chart(found).axes[0]
    drawn = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert drawn == {"flava": [[n, n] for n in sizes], "peer": [[n, 2 * n] for n in sizes]}

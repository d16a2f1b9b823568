import re
import xml.etree.ElementTree as ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flava.reports.charts import PAGE_COLOURS, _smooth, line_chart


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.floats(-1e3, 1e3))
def test_smoothing_stays_within_the_values_and_moves_with_them(
    values: list[float], by: float
) -> None:
    curve = np.array(values)
    found = _smooth(curve)
    assert found.shape == curve.shape
    assert (found >= curve.min() - 1e-6).all()
    assert (found <= curve.max() + 1e-6).all()
    np.testing.assert_allclose(_smooth(curve + by), found + by, atol=1e-6)
    np.testing.assert_allclose(_smooth(curve[::-1]), found[::-1], atol=1e-6)


def test_smoothing_takes_noise_away() -> None:
    noise = np.random.default_rng(0).normal(size=2000)
    assert _smooth(noise).std() < 0.2


def test_a_drawing_is_one_element_in_the_colours_of_the_page() -> None:
    steps = np.arange(1.0, 2001)
    svg = line_chart("loss/gc", steps, np.exp(-steps / 300), smoothed=True, log=True)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "width" not in root.attrib
    assert not any(colour in svg for colour in PAGE_COLOURS)
    assert {"var(--accent)", "var(--muted)", "var(--line)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert "<style" not in svg
    assert len(svg) < 60_000


def test_drawings_of_other_names_share_no_id() -> None:
    steps, values = np.arange(9.0), np.arange(9.0)
    found = [
        set(re.findall(r'id="([^"]+)"', line_chart(name, steps, values, smoothed=False)))
        for name in ("validation/a", "validation/b")
    ]
    assert found[0]
    assert not found[0] & found[1]


def test_a_single_point_and_values_that_are_zero_can_be_drawn() -> None:
    for log in (False, True):
        line_chart("one", np.array([1.0]), np.array([0.0]), smoothed=True, log=log)
        line_chart("one", np.array([1.0]), np.array([2.0]), smoothed=False, log=log)

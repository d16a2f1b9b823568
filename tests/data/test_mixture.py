import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flava.data.mixture import choose, counts_before

PAPER = {"pairs": 0.70, "images": 0.15, "text": 0.15}
seeds = st.integers(0, 2**63)
mixtures = st.dictionaries(st.text(max_size=5), st.floats(0.01, 100), min_size=1, max_size=5)


@settings(deadline=None)
@given(seeds, st.integers(0, 60), mixtures)
def test_counts_are_those_of_the_choices(seed, step, weights):
    counted = Counter(choose(seed, earlier, weights) for earlier in range(step))
    assert counts_before(seed, step, weights) == {name: counted[name] for name in weights}


@given(seeds, st.integers(0, 10**9), mixtures)
def test_a_choice_is_a_source_and_repeatable(seed, step, weights):
    assert choose(seed, step, weights) in weights
    assert choose(seed, step, weights) == choose(seed, step, weights)


@given(seeds, st.integers(0, 10**6), st.floats(0.1, 1000))
def test_only_the_proportions_of_weights_matter(seed, step, factor):
    scaled = {name: 2.0**3 * weight for name, weight in PAPER.items()}
    assert choose(seed, step, scaled) == choose(seed, step, PAPER)
    assert choose(seed, step, {"only": factor}) == "only"


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_rates_are_the_weights(seed):
    steps = 50_000
    for name, count in counts_before(seed, steps, PAPER).items():
        deviation = math.sqrt(steps * PAPER[name] * (1 - PAPER[name]))
        assert abs(count - steps * PAPER[name]) < 5 * deviation


def test_neighbouring_steps_and_seeds_are_independent():
    for shift in ((0, 1), (1, 0)):  # (seed, step)
        pairs = Counter(
            (choose(s, t, PAPER), choose(s + shift[0], t + shift[1], PAPER))
            for s in range(20)
            for t in range(100)
        )
        for first, p in PAPER.items():
            for second, q in PAPER.items():
                expected = 2000 * p * q
                # Neighbouring pairs overlap, which widens the spread a little.
                assert abs(pairs[first, second] - expected) < 7 * math.sqrt(expected)


def test_another_process_agrees():
    code = (
        "from flava.data.mixture import choose;"
        f"print(*[choose(7, step, {PAPER!r}) for step in range(50)])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == [choose(7, step, PAPER) for step in range(50)]


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": float("nan")}])
def test_bad_weights_are_named(weights):
    with pytest.raises(ValueError, match="weights must be one positive number a source"):
        choose(0, 0, weights)


def test_a_negative_step_is_named():
    with pytest.raises(ValueError, match="step must not be negative, not -1"):
        choose(0, -1, PAPER)
    with pytest.raises(ValueError, match="step must not be negative, not -2"):
        counts_before(0, -2, PAPER)

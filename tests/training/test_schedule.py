import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flava.core.constraints import config_errors
from flava.training.optimizer import (
    Decay,
    OptimizerConfig,
    ScheduleConfig,
    learning_rate_factor,
    weight_decay_at,
)

CONFIGS = st.builds(
    ScheduleConfig,
    warmup_steps=st.integers(0, 60),
    final_fraction=st.floats(0, 1),
    decay=st.sampled_from(Decay),
)


def factors(config: ScheduleConfig, max_steps: int) -> list[float]:
    return [learning_rate_factor(config, step, max_steps) for step in range(max_steps)]


@given(CONFIGS, st.integers(1, 200))
def test_it_rises_in_equal_parts_to_the_peak_and_then_only_falls(config, max_steps):
    found = factors(config, max_steps)
    warmup = min(config.warmup_steps, max_steps)
    for step in range(warmup):
        assert found[step] == pytest.approx((step + 1) / config.warmup_steps)
    after = found[warmup:]
    assert after == sorted(after, reverse=True)
    assert all(config.final_fraction - 1e-12 <= factor <= 1 + 1e-12 for factor in after)
    if after:
        assert after[0] == pytest.approx(1)


@given(CONFIGS, st.integers(1, 200), st.integers(0, 100))
def test_it_ends_at_the_final_fraction_and_stays_there(config, decay_steps, beyond):
    end = config.warmup_steps + decay_steps
    assert learning_rate_factor(config, end + beyond, end) == pytest.approx(config.final_fraction)


@given(st.floats(0, 1), st.integers(0, 50), st.integers(1, 100))
def test_halfway_down_it_is_halfway_between_peak_and_end(final, warmup, half):
    config = ScheduleConfig(warmup_steps=warmup, final_fraction=final)
    factor = learning_rate_factor(config, warmup + half, warmup + 2 * half)
    assert factor == pytest.approx((1 + final) / 2)


@given(st.integers(0, 30), st.integers(1, 40), st.data())
def test_the_way_down_is_half_a_cosine(warmup, decay, data):
    # The sine's square: the same curve by another formula.
    step = data.draw(st.integers(warmup, warmup + decay))
    expected = 1 - math.sin(math.pi / 2 * (step - warmup) / decay) ** 2
    config = ScheduleConfig(warmup_steps=warmup)
    assert learning_rate_factor(config, step, warmup + decay) == pytest.approx(expected)


@given(st.floats(0, 1), st.integers(0, 30), st.integers(1, 40), st.data())
def test_a_linear_way_down_is_straight(final, warmup, decay, data):
    """Between the peak and the end, as fairseq's polynomial decay of power 1."""
    config = ScheduleConfig(warmup_steps=warmup, final_fraction=final, decay=Decay.LINEAR)
    done = data.draw(st.integers(0, decay))
    factor = learning_rate_factor(config, warmup + done, warmup + decay)
    assert factor == pytest.approx((1 * (decay - done) + final * done) / decay)


@given(CONFIGS, st.integers(1, 60), st.integers(0, 100))
def test_it_may_be_down_before_the_run_ends(config, decay_steps, beyond):
    end = config.warmup_steps + decay_steps
    early = replace(config, decay_end=end)
    for step in (0, end // 2, end - 1):
        assert learning_rate_factor(early, step, end + beyond) == learning_rate_factor(
            config, step, end
        )
    assert learning_rate_factor(early, end + beyond, 10_000) == pytest.approx(config.final_fraction)


def test_no_update_is_made_at_a_rate_of_zero():
    assert factors(ScheduleConfig(warmup_steps=4), 8)[0] == 0.25
    assert min(factors(ScheduleConfig(warmup_steps=4), 8)) > 0


def test_a_run_may_end_within_its_warmup():
    assert factors(ScheduleConfig(warmup_steps=10), 3) == [0.1, 0.2, 0.3]


def test_every_mistake_is_listed():
    config = ScheduleConfig(warmup_steps=-1, final_fraction=1.5, decay_end=-1)
    assert config_errors(config, "schedule.") == [
        "schedule.warmup_steps is -1: it should be greater than or equal to 0",
        "schedule.final_fraction is 1.5: it should be less than or equal to 1",
        "schedule.decay_end is -1: use more than schedule.warmup_steps -1",
    ]


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(1, 100), st.data())
def test_the_weight_decay_goes_along_half_a_cosine(first, last, max_steps, data):
    """From the first to the final one, without a warm-up: again by the sine's square."""
    config = OptimizerConfig(weight_decay=first, final_weight_decay=last)
    step = data.draw(st.integers(0, max_steps))
    expected = first + (last - first) * math.sin(math.pi / 2 * step / max_steps) ** 2
    assert weight_decay_at(config, step, max_steps) == pytest.approx(expected, abs=1e-12)


def test_the_weight_decay_stays_where_no_final_one_is_given():
    assert {weight_decay_at(OptimizerConfig(weight_decay=0.2), step, 9) for step in range(9)} == {
        0.2
    }

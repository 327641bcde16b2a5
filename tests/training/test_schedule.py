"""The learning rate: a linear warm-up, then half a cosine."""

import itertools
import math

import pytest

from src.training.optim import learning_rate

SCHEDULE = {"total_steps": 101, "warmup_steps": 20, "peak": 0.1, "floor": 0.01}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1 / 21),  # above 0
        (19, 0.1 * 20 / 21),
        (20, 0.1),  # the peak
        (40, 0.01 + 0.09 * (1 + math.cos(math.pi / 4)) / 2),
        (60, 0.055),  # half way down
        (100, 0.01),  # the last step
        (10_000, 0.01),
    ],
)
def test_values(step, expected):
    assert learning_rate(step, **SCHEDULE) == pytest.approx(expected, rel=1e-9)


def test_it_rises_then_falls():
    rates = [learning_rate(step, **SCHEDULE) for step in range(101)]
    assert all(a < b for a, b in itertools.pairwise(rates[:21]))
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))


@pytest.mark.parametrize(
    ("total_steps", "warmup_steps"), [(10, 0), (1, 0), (2, 1), (10, 9), (10, 10), (10, 30)]
)
def test_short_runs(total_steps, warmup_steps):
    steps = range(total_steps)
    rates = [learning_rate(step, total_steps, warmup_steps, 0.1, 0.0) for step in steps]
    assert all(0 <= rate <= 0.1 for rate in rates)
    assert rates[0] > 0
    if warmup_steps < total_steps:
        assert rates[warmup_steps] == pytest.approx(0.1)

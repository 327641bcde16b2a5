"""Compare sliding minima and maxima, closing and dilation with direct computations."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from src.extras.paper.windows import closing, dilate, sliding

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("function", [np.maximum, np.minimum])
def test_sliding_equals_the_extreme_of_every_window(k, function):
    x = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
    squares = sliding_window_view(x, (k, k))
    expected = function.reduce(squares, axis=(2, 3))
    assert np.array_equal(sliding(x, k, function), expected)

    rows = sliding_window_view(x, k, axis=1)
    expected = function.reduce(rows, axis=2)
    assert np.array_equal(sliding(x, k, function, axes=(1,)), expected)


def test_closing_fills_only_narrow_dark_details():
    x = np.full((30, 40), 200, np.uint8)
    narrow = np.s_[10:20, 5:9]
    x[narrow] = 50
    x[5:25, 20:32] = 60
    x[15, 36] = 250
    expected = x.copy()
    expected[narrow] = 200
    assert np.array_equal(closing(x, 5), expected)


@pytest.mark.parametrize("radius", [-1, 0.3, 0.5, 1, 1.5, 2.3, 4])
def test_dilate_takes_the_largest_value_within_the_radius(radius):
    x = RNG.integers(0, 256, (15, 18)).astype(np.uint8)
    expected = np.zeros_like(x)
    rows, columns = np.ogrid[:15, :18]
    for row, column in np.ndindex(x.shape):
        distance = np.hypot(rows - row, columns - column)
        within = distance <= max(0, radius)
        expected[row, column] = x[within].max()
    assert np.array_equal(dilate(x, radius), expected)

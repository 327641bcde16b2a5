"""Sliding extremes, closing and dilation, compared with direct computation."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from src.extras.paper.windows import closing, dilate, sliding

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("function", [np.maximum, np.minimum])
def test_sliding_equals_the_extreme_of_every_window(k, function):
    x = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
    windows = sliding_window_view(x, (k, k))
    assert np.array_equal(sliding(x, k, function), function.reduce(windows, axis=(2, 3)))
    columns = sliding_window_view(x, k, 1)
    assert np.array_equal(sliding(x, k, function, (1,)), function.reduce(columns, axis=2))


def test_closing_fills_only_narrow_dark_details():
    x = np.full((30, 40), 200, np.uint8)
    x[10:20, 5:9] = 50  # 4 wide
    x[5:25, 20:32] = 60  # 12 wide
    x[15, 36] = 250
    expected = x.copy()
    expected[10:20, 5:9] = 200
    assert np.array_equal(closing(x, 5), expected)


@pytest.mark.parametrize("radius", [-1, 0.3, 0.5, 1, 1.5, 2.3, 4])
def test_dilate_takes_the_largest_value_within_the_radius(radius):
    x = RNG.integers(0, 256, (15, 18)).astype(np.uint8)
    expected = np.zeros_like(x)
    rows, columns = np.ogrid[:15, :18]
    for row, column in np.ndindex(x.shape):
        within = (rows - row) ** 2 + (columns - column) ** 2 <= max(0, radius) ** 2
        expected[row, column] = x[within].max()
    assert np.array_equal(dilate(x, radius), expected)

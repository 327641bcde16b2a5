"""Connected components, compared with SciPy, and their grouping into digits."""

import numpy as np
import pytest
from scipy import ndimage

from src.extras.paper.components import find_components, largest_digit

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8])
def test_components_equal_those_of_scipy(density):
    for _ in range(20):
        mask = RNG.random(RNG.integers(1, 30, 2)) < density
        found = find_components(mask)
        expected, count = ndimage.label(mask, np.ones((3, 3)))
        slices = ndimage.find_objects(expected)
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
        assert sorted(map(tuple, found.boxes.tolist())) == sorted(boxes)
        assert np.array_equal(found.mask(list(range(count))), mask)
        for component in range(count):
            part = found.mask([component])
            assert np.array_equal(part, expected == expected[part][0])


def test_a_spiral_is_one_component():
    """Its rows are joined late, and from the inside out."""
    mask = np.zeros((41, 41), bool)
    row = column = 0
    down, across = 0, 1
    lengths = [40] + [n for n in range(40, 0, -2) for _ in range(2)]
    for length in lengths:
        for _ in range(length):
            mask[row, column] = True
            row, column = row + down, column + across
        down, across = across, -down
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert find_components(mask).boxes.tolist() == [[0, 0, 41, 41]]


DIGIT = [50, 50, 110, 150]
DOT = [112, 60, 120, 68]
NEXT = [220, 60, 270, 140]
SPECK = [10, 10, 12, 12]
EDGE = [0, 20, 300, 30]  # larger than the digit, from border to border


@pytest.mark.parametrize(
    "boxes, digit, count",
    [
        ([NEXT, DIGIT, DOT, SPECK], [1, 2], 2),
        ([EDGE, DIGIT], [1], 1),
        ([EDGE], [0], 1),
        ([SPECK], [], 0),
        ([], [], 0),
    ],
)
def test_components_are_grouped_into_digits_by_their_boxes(boxes, digit, count):
    found, digits = largest_digit(np.array(boxes, int).reshape(-1, 4), (200, 300))
    assert sorted(found) == digit and digits == count

"""Compare connected components with SciPy's, and test the grouping of components into digits."""

import numpy as np
import pytest
from scipy import ndimage

from src.extras.paper.components import find_components, largest_digit

RNG = np.random.default_rng(0)

DIGIT = [50, 50, 110, 150]
DOT = [112, 60, 120, 68]
NEXT = [220, 60, 270, 140]
SPECK = [10, 10, 12, 12]
EDGE = [0, 20, 300, 30]  # larger than the digit; spans the photo
TOOLBAR = [20, 6, 280, 20]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8])
def test_components_equal_those_of_scipy(density):
    for _ in range(20):
        mask = RNG.random(RNG.integers(1, 30, 2)) < density
        found = find_components(mask)
        expected, count = ndimage.label(mask, np.ones((3, 3)))
        slices = ndimage.find_objects(expected)
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in slices]
        assert sorted(found.boxes.tolist()) == sorted(boxes)
        for component in range(count):
            part = found.mask([component])
            label = expected[part][0]
            assert np.array_equal(part, expected == label)


@pytest.mark.parametrize(
    "boxes, digit, count",
    [
        ([NEXT, DIGIT, DOT, SPECK], [1, 2], 2),
        ([EDGE, DIGIT], [1], 1),
        ([TOOLBAR, DIGIT], [1], 1),
        ([EDGE], [0], 1),
        ([SPECK], [], 0),
        ([], [], 0),
    ],
)
def test_components_are_grouped_into_digits_by_their_boxes(boxes, digit, count):
    array = np.array(boxes, int).reshape(-1, 4)
    found, digits = largest_digit(array, (200, 300))
    assert sorted(found) == digit
    assert digits == count

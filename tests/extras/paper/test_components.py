"""Test connected components, and how they are grouped into digits."""

import numpy as np
import pytest

from src.extras.paper.components import find_components, largest_digit

DIGIT = [50, 50, 110, 150]
DOT = [112, 60, 120, 68]
NEXT = [220, 60, 270, 140]
SPECK = [10, 10, 12, 12]
EDGE = [0, 20, 300, 30]  # larger than the digit; spans the photo
TOOLBAR = [20, 6, 280, 20]


def test_diagonal_neighbors_are_connected():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], bool)
    labels, boxes = find_components(mask)
    assert labels.tolist() == [[0, -1, -1, 1], [-1, 0, -1, 1]]
    assert boxes.tolist() == [[0, 0, 2, 2], [3, 0, 4, 2]]


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

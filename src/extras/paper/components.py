"""Find the connected components of a mask, and group them into digits."""

import numpy as np
from scipy import ndimage

# Minimum size of a component, as a fraction of the shorter side of the photo.
MIN_SIDE = 0.02
# Maximum gap between parts of one digit, as a fraction of the digit size.
MAX_GAP = 0.12
# Maximum gap for parts that may be something else, such as a table edge or the next digit.
MAX_DOUBTFUL_GAP = 0.05
# Maximum gap between a toolbar and the border, as a fraction of the shorter side of the photo.
BORDER_GAP = 0.05


def find_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the P 8-connected components of a mask, bool [H, W].

    Returns:
        The component of each pixel, int [H, W] (-1 outside the mask), and the bounding boxes of the
        components as (left, top, right, bottom), int [P, 4].
    """
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    slices = ndimage.find_objects(labels)
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in slices]
    return labels - 1, np.array(boxes, int).reshape(-1, 4)


def largest_digit(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Group components into digits: repeatedly take the largest one and its neighbors.

    A component at the border of the photo is used only if there are no other components.

    Args:
        boxes: bounding boxes of the components, int [P, 4].
        shape: height and width of the photo.

    Returns:
        Indices of the components of the largest digit, and the number of digits.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    cut = _is_at_border(boxes, shape)
    order = np.argsort(-sides * np.where(cut, 0.3, 1), kind="stable")
    rest = order[sides[order] >= MIN_SIDE * min(shape)]
    digits = []
    while len(rest):
        digit, rest = rest[:1], rest[1:]
        while (near := _is_near(boxes[digit], boxes[rest], cut[rest])).any():
            digit = np.concatenate([digit, rest[near]])
            rest = rest[~near]
        digits.append(digit)
    if not digits:
        return rest, 0
    largest, *others = digits
    least = _longer_side(boxes[largest]) / 2
    count = 1 + sum(_longer_side(boxes[d]) > least and not cut[d].any() for d in others)
    return largest, count


def _is_near(digit: np.ndarray, others: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return whether each of the other boxes [R, 4] belongs to the digit, bool [R].

    Args:
        digit: boxes of the components of the digit, int [P, 4].
        others: boxes of other components, int [R, 4].
        cut: True for other components at the border of the photo, bool [R].
    """
    box = enclosing_box(digit)
    gaps = np.maximum(others[:, :2] - box[2:], box[:2] - others[:, 2:])
    width, height = box[2:] - box[:2]
    side = max(width, height)
    sides = others[:, 2:] - others[:, :2]

    is_next_digit = (gaps[:, 0] > gaps[:, 1]) & (sides[:, 1] > 0.6 * height)
    limit = np.where(cut | is_next_digit, MAX_DOUBTFUL_GAP, MAX_GAP) * side
    is_larger = cut & (sides.max(axis=1) > side)
    return (gaps.max(axis=1) <= limit) & ~is_larger


def _is_at_border(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether each box [P, 4] touches the border or lies along it, like a toolbar."""
    gaps = border_gaps(boxes, shape)
    sides = boxes[:, 2:] - boxes[:, :2]
    is_along = (gaps < BORDER_GAP * min(shape)) & (sides[:, ::-1] >= 3 * sides)
    return ((gaps == 0) | is_along).any(axis=1)


def border_gaps(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the horizontal and vertical gap between each box [P, 4] and the border, int [P, 2]."""
    return np.minimum(boxes[:, :2], np.flip(shape) - boxes[:, 2:])


def enclosing_box(boxes: np.ndarray) -> np.ndarray:
    """Return the bounding box of one or more boxes, int [P, 4] -> [4]."""
    low = boxes[:, :2].min(axis=0)
    high = boxes[:, 2:].max(axis=0)
    return np.concatenate([low, high])


def _longer_side(boxes: np.ndarray) -> int:
    box = enclosing_box(boxes)
    return int((box[2:] - box[:2]).max())

"""Find the connected components of a mask, and group them into digits."""

from dataclasses import dataclass

import numpy as np

# Minimum size of a component, as a fraction of the shorter side of the photo.
MIN_SIDE = 0.02
# Maximum gap between parts of one digit, as a fraction of the digit size.
MAX_GAP = 0.12
# Maximum gap for parts that may be something else, such as a table edge or the next digit.
MAX_DOUBTFUL_GAP = 0.05
# Maximum gap between a toolbar and the border, as a fraction of the shorter side of the photo.
BORDER_GAP = 0.05


@dataclass(frozen=True)
class Components:
    """The 8-connected components of a mask.

    Args:
        runs: horizontal runs of True as (row, start, end), int [R, 3].
        labels: component index of each run, int [R].
        boxes: bounding boxes of the components as (left, top, right, bottom), int [P, 4].
        shape: height and width of the mask.
    """

    runs: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    shape: tuple[int, int]

    def mask(self, components: list[int]) -> np.ndarray:
        """Return a mask of the given components, bool [H, W]."""
        height, width = self.shape
        rows, starts, ends = self.runs[np.isin(self.labels, components)].T
        steps = np.zeros((height, width + 1), np.int8)
        steps[rows, starts] = 1
        steps[rows, ends] = -1
        return steps.cumsum(axis=1)[:, :-1] > 0

    def count(self, area: np.ndarray) -> np.ndarray:
        """Count the pixels of each component inside an area, bool [H, W] -> [P]."""
        rows, starts, ends = self.runs.T
        before = np.pad(area.cumsum(axis=1), ((0, 0), (1, 0)))
        pixels = before[rows, ends] - before[rows, starts]
        return np.bincount(self.labels, pixels, minlength=len(self.boxes))


def find_components(mask: np.ndarray) -> Components:
    """Find the connected components of a mask, bool [H, W]."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    roots = _join_runs(rows, starts, ends, len(mask))
    labels = np.unique(roots, return_inverse=True)[1]
    count = labels.max(initial=-1) + 1
    boxes = np.zeros((count, 4), int)
    boxes[:, :2] = mask.size
    np.minimum.at(boxes[:, 0], labels, starts)
    np.minimum.at(boxes[:, 1], labels, rows)
    np.maximum.at(boxes[:, 2], labels, ends)
    np.maximum.at(boxes[:, 3], labels, rows + 1)
    runs = np.stack([rows, starts, ends], axis=1)
    return Components(runs, labels, boxes, mask.shape)


def _join_runs(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, height: int) -> list[int]:
    """Return the root of each run, by union-find over adjacent rows."""
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 1)).tolist()
    lefts = starts.tolist()
    rights = ends.tolist()
    for row in range(1, height):
        above = first[row - 1]
        here = first[row]
        while above < first[row] and here < first[row + 1]:
            if lefts[above] <= rights[here] and lefts[here] <= rights[above]:
                parents[root(here)] = root(above)
            if rights[above] < rights[here]:
                above += 1
            else:
                here += 1
    return [root(run) for run in parents]


def largest_digit(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[list[int], int]:
    """Group components into digits: repeatedly take the largest one and its neighbors.

    A component at the border of the photo is used only if there are no other components.

    Args:
        boxes: bounding boxes of the components, int [P, 4].
        shape: height and width of the photo.

    Returns:
        Indices of the components of the largest digit, and the number of digits.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    sides = sizes.max(axis=1, initial=0)
    cut = touches_border(boxes, shape) | lies_along_border(boxes, shape)
    rank = sides * np.where(cut, 0.3, 1)
    order = np.argsort(-rank, kind="stable")
    is_large = sides[order] >= MIN_SIDE * min(shape)
    rest = order[is_large]
    digits = []
    while len(rest):
        digit, rest = _grow_digit(rest, boxes, cut)
        digits.append(digit)
    if not digits:
        return [], 0
    largest, *others = digits
    least = _side(boxes[largest]) / 2
    count = 1 + sum(_side(boxes[d]) > least and not cut[d].any() for d in others)
    return largest.tolist(), count


def _grow_digit(
    rest: np.ndarray, boxes: np.ndarray, cut: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Grow a digit from the first component; return the digit and the remaining components.

    Args:
        rest: indices of the components to choose from, int [R].
        boxes: bounding boxes of all components, int [P, 4].
        cut: True for components at the border, bool [P].
    """
    digit, rest = rest[:1], rest[1:]
    while True:
        near = _is_near(boxes[digit], boxes[rest], cut[rest])
        if not near.any():
            return digit, rest
        digit = np.concatenate([digit, rest[near]])
        rest = rest[~near]


def _is_near(digit: np.ndarray, others: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return whether each of the other boxes [R, 4] belongs to the digit, bool [R]."""
    left, top, right, bottom = enclosing_box(digit)
    side = max(right - left, bottom - top)
    x_gaps = np.maximum(others[:, 0] - right, left - others[:, 2])
    y_gaps = np.maximum(others[:, 1] - bottom, top - others[:, 3])
    widths = others[:, 2] - others[:, 0]
    heights = others[:, 3] - others[:, 1]

    is_next_digit = (x_gaps > y_gaps) & (heights > 0.6 * (bottom - top))
    limit = np.where(cut | is_next_digit, MAX_DOUBTFUL_GAP, MAX_GAP) * side
    is_larger = cut & (np.maximum(widths, heights) > side)
    return (np.maximum(x_gaps, y_gaps) <= limit) & ~is_larger


def touches_border(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether each box [P, 4] touches the border of the photo, bool [P]."""
    height, width = shape
    at_start = (boxes[:, :2] == 0).any(axis=1)
    at_end = (boxes[:, 2:] == (width, height)).any(axis=1)
    return at_start | at_end


def lies_along_border(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether each box [P, 4] is long and close to the border, like a toolbar, bool [P]."""
    height, width = shape
    x_gaps = np.minimum(boxes[:, 0], width - boxes[:, 2])
    y_gaps = np.minimum(boxes[:, 1], height - boxes[:, 3])
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    limit = BORDER_GAP * min(shape)
    is_upright = (x_gaps < limit) & (heights >= 3 * widths)
    is_level = (y_gaps < limit) & (widths >= 3 * heights)
    return is_upright | is_level


def enclosing_box(boxes: np.ndarray) -> np.ndarray:
    """Return the bounding box of one or more boxes, int [P, 4] -> [4]."""
    low = boxes[:, :2].min(axis=0)
    high = boxes[:, 2:].max(axis=0)
    return np.concatenate([low, high])


def _side(boxes: np.ndarray) -> int:
    box = enclosing_box(boxes)
    return int((box[2:] - box[:2]).max())

"""Remove ruled lines that span the photo, and keep the strokes that cross them."""

import numpy as np
from scipy import ndimage

MIN_INK = 0.3  # low, because lines can be paler than the digit
MAX_SLOPE = 0.12
MIN_COVERAGE = 0.9  # minimum fraction of the photo height that a line covers
# Maximum thickness without blur, as a fraction of the shorter side of the photo.
MAX_THICKNESS = 0.03
BLUR = 2  # extra thickness caused by blur, in pixels
MAX_LINES = 40
SAMPLED_ROWS = 100  # number of rows used to search for lines
# Maximum fraction of pixels with ink. More ink means a thick marker or noise, and the search would
# take seconds.
MAX_DENSITY = 0.3


def remove_ruled_lines(ink: np.ndarray) -> np.ndarray:
    """Remove thin straight lines that span the photo.

    Args:
        ink: float32 [H, W], 0 to 1.
    """
    upright = _remove_upright_lines(ink)
    return _remove_upright_lines(upright.T).T


def _remove_upright_lines(ink: np.ndarray) -> np.ndarray:
    height, width = ink.shape
    ink = ink.copy()
    mask = ink > MIN_INK
    thickest = MAX_THICKNESS * min(height, width) + BLUR
    rows = np.arange(height)[:, None]
    columns = np.arange(width)
    for _ in range(MAX_LINES):
        line = _find_upright_line(mask)
        if line is None:
            break
        left, right = _runs_at(mask, line)
        thickness = right - left
        if not thickness.any():
            break
        typical = np.median(thickness[thickness > 0])
        if typical > thickest:
            break
        # The run is longer at places where a stroke crosses the line.
        is_line = (thickness > 0) & (thickness <= 1.5 * typical + BLUR)
        is_near = (columns >= left - BLUR) & (columns < right + BLUR)
        erased = is_line & is_near
        ink[erased] = 0
        mask[erased] = False
        mask[rows, line] = False  # prevents finding the same line again
    return ink


def _find_upright_line(mask: np.ndarray) -> np.ndarray | None:
    """Find the nearly vertical line from top to bottom that covers the most ink.

    Args:
        mask: bool [H, W].

    Returns:
        The column of the line in every row, int [H, 1]; None if no line covers enough ink.
    """
    height, width = mask.shape
    wide = ndimage.binary_dilation(mask, np.ones((1, 3)))
    step = max(1, height // SAMPLED_ROWS)
    sample = wide[::step]
    best = MIN_COVERAGE * len(sample)
    covered = sample.any(axis=1).sum()
    if covered < best or sample.mean() > MAX_DENSITY:
        return None
    y, x = np.nonzero(sample)
    from_top = y * step / height
    reach = int(MAX_SLOPE * height)
    line = None
    for shift in range(-reach, reach + 1, 2):
        at_top = np.floor(x - shift * from_top + 0.5).astype(int)
        is_inside = (at_top >= 0) & (at_top < width)
        counts = np.bincount(at_top[is_inside], minlength=width)
        if counts.max() > best:
            best = counts.max()
            line = np.argmax(counts) + shift * np.arange(height) / height
    if line is None:
        return None
    columns = line.round().astype(int)
    return columns.clip(0, width - 1)[:, None]


def _runs_at(mask: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and end of the line's run in each row, int [H, 1]; 0 if there is none."""
    width = mask.shape[1]
    columns = np.arange(width)
    is_hit = mask & (np.abs(columns - line) <= BLUR)
    found = is_hit.any(axis=1, keepdims=True)
    first = is_hit.argmax(axis=1)[:, None]
    before = ~mask & (columns < first)
    after = ~mask & (columns > first)
    left = np.where(before, columns, -1).max(axis=1, keepdims=True) + 1
    right = np.where(after, columns, width).min(axis=1, keepdims=True)
    return np.where(found, left, 0), np.where(found, right, 0)

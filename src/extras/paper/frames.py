"""Find thin rectangular frames, such as the boxes of a form."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from src.extras.paper.components import border_gaps, find_components

MIN_INK = 0.3  # low, because frames can be paler than the digit
# Minimum side of a cell, as a fraction of the shorter side of the photo. Smaller cells are holes
# in a digit.
MIN_SIDE = 0.08
# Maximum wall thickness, as a fraction of the shorter side of the cell. Thicker walls are strokes.
MAX_WALL = 0.06
WALL_BLUR = 8  # extra wall thickness caused by blur, in pixels
MAX_CELLS = 40  # more cells indicate graph paper
AREA_RATIO = (0.87, 1.08)  # polygon area divided by cell area; 0.64 for an ellipse
MAX_COSINE = 0.3  # maximum cosine of a corner angle, which is rarely exactly 90 degrees
INSET = 0.03  # width of the blurry line edges, as a fraction of the shorter side of the cell


def find_frames(ink: np.ndarray) -> list[np.ndarray]:
    """Return the corners of all thin rectangular frames.

    The inside of a frame is a connected component of the paper, called a cell. The corners are its
    outermost points in the four diagonal directions. A hole in a digit is not rectangular or has
    thick walls.

    Args:
        ink: float32 [H, W], 0 to 1.

    Returns:
        The corners of each frame as (x, y), clockwise from the top left, float [4, 2].
    """
    lines = ndimage.binary_dilation(ink > MIN_INK, np.ones((3, 3)))
    labels, boxes = find_components(~lines)
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    is_inside = border_gaps(boxes, ink.shape).min(axis=1) > 0
    frames = []
    for cell in np.flatnonzero(is_inside & (shorter >= MIN_SIDE * min(ink.shape))):
        left, top, right, bottom = boxes[cell]
        corners = _corners_of(labels[top:bottom, left:right] == cell)
        if corners is None:
            continue
        corners += (left, top)
        if _has_thin_walls(corners, lines):
            frames.append(corners)
    return frames if len(frames) <= MAX_CELLS else []


def _corners_of(cell: np.ndarray) -> np.ndarray | None:
    """Return the corners of a cell, bool [H, W], or None if it is not an upright rectangle."""
    y, x = np.nonzero(cell)
    extremes = [
        np.argmin(x + y),
        np.argmax(x - y),
        np.argmax(x + y),
        np.argmin(x - y),
    ]
    corners = np.stack([x[extremes], y[extremes]], axis=1).astype(float)
    if not _has_right_angles(corners, min(cell.shape) - 1):
        return None
    left = cell.argmax(axis=1)
    right = cell.shape[1] - cell[:, ::-1].argmax(axis=1)
    pixels = (right - left).sum()  # includes a digit that touches the frame
    low, high = AREA_RATIO
    return corners if low < _fill([corners], cell.shape).sum() / pixels < high else None


def _has_right_angles(corners: np.ndarray, shorter: int) -> bool:
    sides = np.roll(corners, -1, axis=0) - corners
    lengths = np.hypot(sides[:, 0], sides[:, 1])
    if lengths.min() < max(1, 0.5 * shorter):
        return False
    directions = sides / lengths[:, None]
    previous = np.roll(directions, 1, axis=0)
    cosines = (directions * previous).sum(axis=1)
    return bool(np.abs(cosines).max() <= MAX_COSINE)


def _has_thin_walls(corners: np.ndarray, lines: np.ndarray) -> bool:
    """Return whether most of the walls around a cell are thin."""
    height, width = lines.shape
    thickest = round(MAX_WALL * _shorter_side(corners)) + WALL_BLUR
    rings = [_outline(_grow(corners, distance)) for distance in range(1, thickest + 1)]
    x, y = np.stack(rings).transpose(2, 0, 1)
    is_visible = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    is_line = lines[y.clip(0, height - 1), x.clip(0, width - 1)] & is_visible
    is_behind_line = np.logical_or.accumulate(is_line, axis=0)
    is_paper_behind = is_behind_line & ~is_line
    return bool(is_paper_behind.any(axis=0).mean() > 0.6)


def _outline(corners: np.ndarray) -> np.ndarray:
    """Return 50 points on each side of a cell, int [200, 2]."""
    points = np.linspace(corners, np.roll(corners, -1, axis=0), 50)
    return points.reshape(-1, 2).astype(int)


def _grow(corners: np.ndarray, pixels: float) -> np.ndarray:
    """Move the sides of a cell outward."""
    center = corners.mean(axis=0)
    factor = 1 + 2 * pixels / _shorter_side(corners)
    return center + (corners - center) * factor


def inside_of(frames: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return a mask of the area inside the frames, excluding blurry line edges, bool [H, W]."""
    cells = [_grow(corners, -INSET * _shorter_side(corners)) for corners in frames]
    return _fill(cells, shape)


def outside_of(frames: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return a mask of the area outside the frames, excluding their lines, bool [H, W]."""
    cells = [_grow(corners, MAX_WALL * _shorter_side(corners) + WALL_BLUR) for corners in frames]
    return ~_fill(cells, shape)


def _shorter_side(corners: np.ndarray) -> float:
    return float(np.ptp(corners, axis=0).min())


def _fill(cells: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return a mask of the area inside the polygons, bool [H, W]."""
    height, width = shape
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for corners in cells:
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=1)
    return np.asarray(canvas)

"""Find thin rectangular frames, such as the boxes of a form, and read what is inside."""

import numpy as np
from PIL import Image, ImageDraw

from src.extras.paper.components import Components, find_components, touches_border
from src.extras.paper.windows import sliding

LINE = 0.3  # ink of a frame: its lines may be paler than the digit
MIN_SIDE = 0.08  # of the shorter side of the photo; smaller cells are holes of a digit
MAX_WALL = 0.06  # of the shorter side of the cell; thicker walls are strokes
WALL_BLUR = 8  # pixels that blur adds to a wall
MAX_CELLS = 40  # more are the squares of squared paper
INSET = 0.03  # of the cell's sides: the soft edge of the lines


def find_frames(ink: np.ndarray) -> list[np.ndarray]:
    """Return the corners of all thin rectangular frames, each float [4, 2]: x and y.

    The inside of a frame is a component of the paper. Its four outermost points in the diagonal
    directions are its corners, unless it is the hole of a digit.

    Args:
        ink: float32 [H, W], 0 to 1.
    """
    lines = sliding(np.pad(ink > LINE, 1), 3, np.maximum)
    paper = find_components(~lines)
    sizes = paper.boxes[:, 2:] - paper.boxes[:, :2]
    is_large = sizes.min(axis=1, initial=ink.size) >= MIN_SIDE * min(ink.shape)
    inner = ~touches_border(paper.boxes, ink.shape)
    frames = []
    for cell in np.flatnonzero(is_large & inner):
        corners = _rectangle(paper, cell)
        if corners is not None and _has_thin_walls(corners, lines):
            frames.append(corners)
    return frames if len(frames) <= MAX_CELLS else []


def _rectangle(paper: Components, cell: np.intp) -> np.ndarray | None:
    """Return the corners of a component, clockwise, or None if it is not about a rectangle."""
    rows, starts, ends = paper.runs[paper.labels == cell].T
    ends = ends - 1
    x = np.concatenate([starts, ends])
    y = np.concatenate([rows, rows])
    extremes = [np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmin(x - y)]
    corners = np.stack([x[extremes], y[extremes]], axis=1).astype(float)
    sides = np.roll(corners, -1, axis=0) - corners
    lengths = np.hypot(*sides.T)
    if lengths.min() < max(1, 0.5 * min(np.ptp(x), np.ptp(y))):
        return None
    directions = sides / lengths[:, None]
    cosines = (directions * np.roll(directions, 1, axis=0)).sum(axis=1)
    if np.abs(cosines).max() > 0.3:
        return None
    left = np.full(rows.max() + 1, paper.shape[1])
    right = np.zeros(rows.max() + 1, int)
    np.minimum.at(left, rows, starts)
    np.maximum.at(right, rows, ends + 1)
    filled = (right - left).clip(0).sum()
    return corners if 0.87 < _area(corners) / filled < 1.08 else None


def _area(corners: np.ndarray) -> float:
    """Return how many pixels lie in a polygon between pixels (shoelace and Pick's formulas)."""
    x, y = corners.T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    outline = np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum()
    return area + outline / 2 + 1


def _has_thin_walls(corners: np.ndarray, lines: np.ndarray) -> bool:
    """Return whether most of the walls around a cell end at a small distance from it."""
    thickest = round(MAX_WALL * _side(corners)) + WALL_BLUR
    rings = [_outline(_grow(corners, distance)) for distance in range(1, thickest + 1)]
    x, y = np.stack(rings).transpose(2, 0, 1)
    height, width = lines.shape
    is_visible = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    is_wall = lines[y.clip(0, height - 1), x.clip(0, width - 1)] & is_visible
    return (~is_wall).any(axis=0).mean() > 0.6


def _outline(corners: np.ndarray) -> np.ndarray:
    """Return 50 points on each side of a cell, int [200, 2]."""
    points = np.linspace(corners, np.roll(corners, -1, axis=0), 50)
    return points.reshape(-1, 2).astype(int)


def _grow(corners: np.ndarray, pixels: float) -> np.ndarray:
    """Move the sides of a cell outwards."""
    center = corners.mean(axis=0)
    return center + (corners - center) * (1 + 2 * pixels / _side(corners))


def inside_of(frames: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the area inside of all frames, without the soft edge of their lines, bool [H, W]."""
    return _fill([_grow(corners, -INSET * _side(corners)) for corners in frames], shape)


def outside_of(frames: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the area outside of all frames, without their lines, bool [H, W]."""
    cells = [_grow(corners, MAX_WALL * _side(corners) + WALL_BLUR) for corners in frames]
    return ~_fill(cells, shape)


def _side(corners: np.ndarray) -> float:
    return float(np.ptp(corners, axis=0).min())


def _fill(cells: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for corners in cells:
        draw.polygon([(x, y) for x, y in corners.tolist()], fill=1)
    return np.asarray(canvas)

"""Scale and center the ink of one digit as the dataset did."""

import numpy as np
from PIL import Image

from src.extras.paper.strokes import Strokes
from src.extras.paper.windows import dilate, sliding

OVERSAMPLING = 8  # pixels per pixel of the dataset while a digit is scaled and centered


def render_digit(ink: np.ndarray, mask: np.ndarray, size: int, strokes: Strokes) -> np.ndarray:
    """Return one digit as an image of the dataset; broaden the strokes of a thin pen.

    Args:
        ink: float32 [H, W], 0 to 1.
        mask: bool [H, W], where the digit is.
        size: side S of the dataset's images.
        strokes: scale and position of the strokes in them.

    Returns:
        uint8 [S, S], light on black.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    ends = np.array([[columns[0], columns[-1] + 1], [rows[0], rows[-1] + 1]])
    longer = np.ptp(ends, axis=1).max()
    margin = round(0.02 * longer) + 1  # includes the soft edge of strokes, but not marks nearby
    near = sliding(np.pad(mask, margin), 2 * margin + 1, np.maximum)
    photo = _to_image(np.where(near, ink, 0))

    side = 2 * size + strokes.side  # of a canvas with room on all sides, in pixels of the dataset
    length = side * longer / strokes.side  # the same in pixels of the photo
    corner = ends.mean(axis=1) - length / 2
    canvas = np.asarray(_crop_and_average(photo, corner, length, OVERSAMPLING * side))
    pen = OVERSAMPLING * strokes.pen
    canvas = dilate(canvas, (pen - pen_width(canvas)) / 2)

    center = np.full(2, len(canvas) / 2)
    if strokes.center == "mass":
        center = center_of_mass(canvas)
    corner = center - OVERSAMPLING * center_of_image(size, strokes)
    image = Image.fromarray(canvas)
    return np.asarray(_crop_and_average(image, corner, OVERSAMPLING * size, size))


def _to_image(ink: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * ink).round().astype(np.uint8))


def _crop_and_average(
    image: Image.Image, corner: np.ndarray, length: float, size: int
) -> Image.Image:
    """Average a square to `size` x `size` pixels; outside of the image it is black.

    Args:
        image: mode L.
        corner: left and top of the square, in fractional pixels.
        length: its side.
        size: side of the result.
    """
    x, y = np.floor(corner).astype(int).tolist()
    image = image.crop((x, y, x + int(length) + 2, y + int(length) + 2))
    left, top = (corner - (x, y)).tolist()
    box = (left, top, left + length, top + length)
    return image.resize((size, size), Image.Resampling.BOX, box=box)


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Return x and y of the center of mass of an image [H, W], in pixels from its corner."""
    mass = image / max(1, image.sum())
    x = (mass.sum(axis=0) * (np.arange(image.shape[1]) + 0.5)).sum()
    y = (mass.sum(axis=1) * (np.arange(image.shape[0]) + 0.5)).sum()
    return np.array([x, y])


def center_of_image(size: int, strokes: Strokes) -> float:
    """Return where the strokes are centered, in pixels from the left and top.

    MNIST has its center of mass in the middle of pixel 14 of 28, not between 13 and 14.
    """
    return (size + 1) / 2 if strokes.center == "mass" else size / 2


def pen_width(ink: np.ndarray) -> float:
    """Return the average width of the strokes of uint8 [H, W], in pixels.

    It is twice the area of the strokes over the length of their outline.
    """
    ink = ink.astype(np.float32)
    down = np.diff(ink, axis=0)[:, :-1]
    right = np.diff(ink, axis=1)[:-1]
    return 2 * float(ink.sum() / np.hypot(down, right).sum())

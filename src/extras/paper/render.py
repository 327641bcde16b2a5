"""Scale and center the ink of one digit as in the dataset."""

import numpy as np
from PIL import Image
from scipy import ndimage

from src.extras.paper.strokes import Strokes, center_of_mass, stroke_center

OVERSAMPLING = 8  # canvas pixels per dataset pixel while a digit is scaled and centered


def render_digit(
    ink: np.ndarray, mask: np.ndarray, box: np.ndarray, size: int, strokes: Strokes
) -> np.ndarray:
    """Convert one digit to the format of the dataset, and thicken thin strokes.

    Args:
        ink: amount of ink, 0 to 1, float32 [H, W].
        mask: mask of the digit, bool [H, W].
        box: bounding box of the mask (left, top, right, bottom), int [4].
        size: side length S of the dataset images.
        strokes: scale and position of the strokes in the dataset images.

    Returns:
        The digit, light on black, uint8 [S, S].
    """
    low, high = box[:2], box[2:]
    longer = (high - low).max()
    margin = round(0.02 * longer) + 1  # includes blurry stroke edges, but no nearby marks
    near = ndimage.maximum_filter(mask, 2 * margin + 1, mode="constant")
    photo = (255 * np.where(near, ink, 0)).round().astype(np.uint8)

    side = 2 * size + strokes.side  # canvas side with margins, in dataset pixels
    length = side * longer / strokes.side  # canvas side in photo pixels
    corner = (low + high) / 2 - length / 2
    canvas = _crop_and_average(photo, corner, length, OVERSAMPLING * side)

    pen = OVERSAMPLING * strokes.pen
    canvas = _dilate(canvas, (pen - pen_width(canvas)) / 2)

    center = np.full(2, len(canvas) / 2)
    if strokes.center == "mass":
        center = center_of_mass(canvas)
    corner = center - OVERSAMPLING * stroke_center(size, strokes)
    return _crop_and_average(canvas, corner, OVERSAMPLING * size, size)


def _dilate(image: np.ndarray, radius: float) -> np.ndarray:
    """Replace every pixel of an image [H, W] with the maximum within `radius` pixels of it."""
    reach = int(radius)
    if reach <= 0:
        return image
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    disk = x**2 + y**2 <= radius**2
    return ndimage.maximum_filter(image, footprint=disk, mode="constant")


def _crop_and_average(
    pixels: np.ndarray, corner: np.ndarray, length: float, size: int
) -> np.ndarray:
    """Downscale a square region to `size` x `size` pixels; pixels outside the image are black.

    Args:
        pixels: grayscale image, uint8 [H, W].
        corner: top-left corner (x, y) of the square; may be fractional.
        length: side length of the square.
        size: side length of the output.
    """
    x, y = np.floor(corner).astype(int).tolist()
    right = x + int(length) + 2
    bottom = y + int(length) + 2
    image = Image.fromarray(pixels).crop((x, y, right, bottom))
    left, top = (corner - (x, y)).tolist()
    box = (left, top, left + length, top + length)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))


def pen_width(ink: np.ndarray) -> float:
    """Return the average stroke width of an image, uint8 [H, W], in pixels.

    The width is computed as twice the stroke area divided by the outline length.
    """
    ink = ink.astype(np.float32)
    down = np.diff(ink, axis=0)[:, :-1]
    right = np.diff(ink, axis=1)[:-1]
    outline = np.hypot(down, right).sum()
    return 2 * float(ink.sum() / outline)

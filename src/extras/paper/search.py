"""Find the largest digit in a photo.

The steps are: find the ink (`ink.py`), remove frames (`frames.py`) and ruled lines (`lines.py`),
and select the connected components of one digit (`components.py`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.extras.paper.components import enclosing_box, find_components, largest_digit
from src.extras.paper.frames import find_frames, inside_of, outside_of
from src.extras.paper.ink import find_ink, ink_channel, is_dark_on_light, peak
from src.extras.paper.lines import remove_ruled_lines

MIN_SIDE = 280  # photos whose longer side is shorter are enlarged
# Minimum ink of a digit relative to the frame or line around it. Fainter ink is noise or residue.
MIN_RELATIVE_INK = 0.35
# If a larger fraction of the lines of empty frames lies outside them, they are loops of a digit.
MAX_OUTSIDE = 0.15


class FoundDigit(NamedTuple):
    """The location of a digit in a photo.

    Attributes:
        ink: amount of ink, 0 to 1, float32 [H, W].
        mask: mask of the digit, bool [H, W].
        box: bounding box of the mask (left, top, right, bottom), int [4].
        digits: number of digits in the photo.
    """

    ink: np.ndarray
    mask: np.ndarray
    box: np.ndarray
    digits: int


def find_digit(photo: Image.Image, is_dark: bool | None) -> FoundDigit | None:
    """Find the largest digit in a photo of mode L or RGB; return None if there are no strokes.

    Args:
        photo: photo of any size; the result is larger if its longer side is below `MIN_SIDE`.
        is_dark: whether the strokes are dark on light; None detects the polarity.
    """
    gray = ink_channel(photo)
    detect = is_dark is None
    if is_dark is None:
        is_dark = is_dark_on_light(gray)
    gray = _enlarge(gray)
    found = _find_dark_digit(gray if is_dark else 255 - gray)
    if detect and not is_dark and found and _is_paper_in_frames(found.mask, gray):
        found = _find_dark_digit(gray)
    return found


def _find_dark_digit(gray: np.ndarray) -> FoundDigit | None:
    """Find the largest dark digit in a light image, uint8 [H, W]."""
    for ink in _without_frames_and_lines(find_ink(gray)):
        labels, boxes = find_components(ink > 0.5)
        digit, count = largest_digit(boxes, ink.shape)
        if len(digit):
            return FoundDigit(ink, np.isin(labels, digit), enclosing_box(boxes[digit]), count)
    return None


def _is_paper_in_frames(mask: np.ndarray, gray: np.ndarray) -> bool:
    """Return whether the detected light strokes are actually the paper inside dark frames."""
    frames = find_frames(find_ink(gray))
    return bool(inside_of(frames, gray.shape)[mask].mean() > 0.5)


def _enlarge(gray: np.ndarray) -> np.ndarray:
    longer = max(gray.shape)
    if longer >= MIN_SIDE:
        return gray
    height, width = (max(1, round(side * (MIN_SIDE / longer))) for side in gray.shape)
    large = Image.fromarray(gray).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large)


def _without_frames_and_lines(ink: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the ink, 0 to 1, [H, W], of each region to search for a digit, the likeliest first.

    The regions are the inside of the frames, the outside without ruled lines, and the entire
    outside.
    """
    frames = find_frames(ink)
    if frames:
        yield _normalize(np.where(inside_of(frames, ink.shape), ink, 0))
        outside = outside_of(frames, ink.shape)
        if not _continue_outside(ink > 0.5, outside):
            ink = _normalize(np.where(outside, ink, 0))
    yield _normalize(remove_ruled_lines(ink))
    yield ink


def _continue_outside(mask: np.ndarray, outside: np.ndarray) -> bool:
    """Return whether empty frames are actually loops of a digit with strokes outside them."""
    labels, _ = find_components(mask)
    is_frame = np.isin(labels, labels[mask & ~outside])
    return bool(outside[is_frame].sum() > MAX_OUTSIDE * is_frame.sum())


def _normalize(ink: np.ndarray) -> np.ndarray:
    level = peak(ink)
    if level <= MIN_RELATIVE_INK:
        return np.zeros_like(ink)
    return (ink / level).clip(0, 1)

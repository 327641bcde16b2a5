"""Extract one digit from a photo and convert it to the format of the dataset.

The steps are: find the ink (`ink.py`), remove frames (`frames.py`) and ruled lines (`lines.py`),
select the connected components of one digit (`components.py`), and scale and center the digit as in
the dataset (`render.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from src.errors import InputError
from src.extras.paper.components import enclosing_box, find_components, largest_digit
from src.extras.paper.frames import find_frames, inside_of, outside_of
from src.extras.paper.ink import find_ink, ink_channel, is_dark_on_light, peak
from src.extras.paper.lines import remove_ruled_lines
from src.extras.paper.render import center_of_image, center_of_mass, render_digit
from src.extras.paper.strokes import Strokes

Invert = Literal["auto", "yes", "no"]
Box = tuple[float, float, float, float]

# Photos whose longer side is outside this range are resized.
MIN_SIDE = 280
MAX_SIDE = 640
MAX_BLACK = 8  # maximum brightness of a black background, including JPEG noise
# Maximum offset from the center, in pixels. No dataset image has a larger offset.
MAX_OFFSET = 1.5
# Minimum ink of a digit relative to the frame or line around it. Fainter ink is noise or residue.
MIN_RELATIVE_INK = 0.35
# If a larger fraction of the lines of empty frames lies outside them, they are loops of a digit.
MAX_OUTSIDE = 0.15


@dataclass(frozen=True)
class ExtractedDigit:
    """A digit in the format of the dataset.

    Args:
        image: light digit on black, uint8 [S, S].
        box: bounding box of the digit (left, top, right, bottom), as fractions of the photo width
            and height; None if the photo already looked like a dataset image.
        digits: number of digits in the photo; `image` contains the largest.
    """

    image: np.ndarray
    box: Box | None = None
    digits: int = 1


def extract_digit(
    photo: Image.Image, image_size: int, strokes: Strokes, invert: Invert = "auto"
) -> ExtractedDigit:
    """Extract the largest digit; leave photos that look like dataset images unchanged.

    Args:
        photo: photo of any size in mode L, RGB or RGBA.
        image_size: side length S of the dataset images.
        strokes: scale and position of the strokes in the dataset images.
        invert: whether the strokes are dark on light; "auto" detects the polarity.

    Raises:
        InputError: no strokes were found; the message does not include the file name.
    """
    photo = _flatten(photo)
    prepared = _as_dataset_image(photo, image_size, strokes, invert)
    if prepared is not None:
        return ExtractedDigit(prepared)
    gray = ink_channel(_reduce(photo))
    is_dark = is_dark_on_light(gray) if invert == "auto" else invert == "yes"
    gray = _enlarge(gray)
    found = _find_digit(gray if is_dark else 255 - gray)
    if invert == "auto" and not is_dark and found and _is_paper_in_frames(found, gray):
        found = _find_digit(gray)
    if found is None:
        raise InputError(
            "no strokes were found; show one digit in ink that stands out from the paper"
        )
    image = render_digit(found.ink, found.mask, image_size, strokes)
    return ExtractedDigit(image, found.box, found.digits)


@dataclass(frozen=True)
class _FoundDigit:
    """The location of a digit in a photo.

    Args:
        ink: amount of ink, 0 to 1, float32 [H, W].
        mask: mask of the digit, bool [H, W].
        box: bounding box, as in `ExtractedDigit`.
        digits: number of digits in the photo.
    """

    ink: np.ndarray
    mask: np.ndarray
    box: Box
    digits: int


def _find_digit(gray: np.ndarray) -> _FoundDigit | None:
    """Find the largest dark digit in a light image, uint8 [H, W]."""
    for ink in _without_frames_and_lines(find_ink(gray)):
        components = find_components(ink > 0.5)
        digit, count = largest_digit(components.boxes, ink.shape)
        if digit:
            box = _as_fractions(enclosing_box(components.boxes[digit]), ink.shape)
            return _FoundDigit(ink, components.mask(digit), box, count)
    return None


def _is_paper_in_frames(found: _FoundDigit, gray: np.ndarray) -> bool:
    """Return whether the detected light strokes are actually the paper inside dark frames."""
    frames = find_frames(find_ink(gray))
    if not frames:
        return False
    inside = inside_of(frames, gray.shape)
    return bool(inside[found.mask].mean() > 0.5)


def _flatten(photo: Image.Image) -> Image.Image:
    """Composite a photo onto white, or onto black if it is mostly transparent and light."""
    if photo.mode != "RGBA":
        return photo
    alpha = np.asarray(photo.getchannel("A")).astype(float)
    gray = np.asarray(photo.convert("RGB").convert("L"))
    background = "white"
    if alpha.any() and alpha.mean() < 127 and np.average(gray, weights=alpha) > 127:
        background = "black"
    canvas = Image.new("RGBA", photo.size, background)
    return Image.alpha_composite(canvas, photo).convert("RGB")


def _reduce(photo: Image.Image) -> Image.Image:
    longer = max(photo.size)
    if longer <= MAX_SIDE:
        return photo
    size = [max(1, round(side * (MAX_SIDE / longer))) for side in photo.size]
    return photo.resize(size, Image.Resampling.BOX)


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
    ruled = remove_ruled_lines(ink)
    if ruled is not None:
        yield _normalize(ruled)
    yield ink


def _continue_outside(mask: np.ndarray, outside: np.ndarray) -> bool:
    """Return whether empty frames are actually loops of a digit with strokes outside them."""
    components = find_components(mask)
    total = components.count(np.ones_like(mask))
    beyond = components.count(outside)
    is_touched = beyond < total
    return bool(beyond[is_touched].sum() > MAX_OUTSIDE * total[is_touched].sum())


def _normalize(ink: np.ndarray) -> np.ndarray:
    level = peak(ink)
    if level <= MIN_RELATIVE_INK:
        return np.zeros_like(ink)
    return (ink / level).clip(0, 1)


def _as_fractions(box: np.ndarray, shape: tuple[int, int]) -> Box:
    height, width = shape
    left, top, right, bottom = box.tolist()
    return (left / width, top / height, right / width, bottom / height)


def _as_dataset_image(
    photo: Image.Image, image_size: int, strokes: Strokes, invert: Invert
) -> np.ndarray | None:
    """Return the photo as light on black if it looks like a dataset image, otherwise None."""
    if photo.size != (image_size, image_size):
        return None
    gray = np.asarray(photo.convert("L"))
    if invert == "yes" or (invert == "auto" and _border(gray).mean() > 127):
        gray = 255 - gray
    offset = np.abs(center_of_mass(gray) - center_of_image(image_size, strokes)).max()
    is_light_on_black = np.percentile(_border(gray), 25) <= MAX_BLACK and gray.max() > 127
    return gray if offset < MAX_OFFSET and is_light_on_black else None


def _border(gray: np.ndarray) -> np.ndarray:
    """Return the border pixels; corners are included twice."""
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])

"""Extract one digit from a photo and return it as an image of the dataset.

photo -> ink (`ink.py`), without frames (`frames.py`) and ruled lines (`lines.py`) -> connected
components of one digit, without specks and other digits (`components.py`) -> scaled and centered as
in the dataset (`render.py`).
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

MIN_SIDE = 280  # of the longer side of a photo, in pixels; smaller ones are enlarged
MAX_SIDE = 640  # larger ones are reduced
MAX_BLACK = 8  # brightness of a black background, with the noise of a JPEG
MAX_OFFSET = 1.5  # pixels off the center: more than in any image of the datasets
# Ink of a digit relative to that of the frame or line around it; below it is noise or a residue.
MIN_RELATIVE_INK = 0.35
MAX_OUTSIDE = 0.15  # of the lines of empty frames, that lie outside of them


@dataclass(frozen=True)
class ExtractedDigit:
    """A digit in the form of the dataset.

    Args:
        image: uint8 [S, S], light on black.
        box: left, top, right and bottom of the digit, as fractions of the photo's sides; None if
            the photo was an image of the dataset already.
        digits: number of digits in the photo; `image` shows the largest.
    """

    image: np.ndarray
    box: Box | None = None
    digits: int = 1


def extract_digit(
    photo: Image.Image, image_size: int, strokes: Strokes, invert: Invert = "auto"
) -> ExtractedDigit:
    """Extract the largest digit; return an image that looks like the dataset unchanged.

    Args:
        photo: mode L, RGB or RGBA, any size.
        image_size: side S of the dataset's images.
        strokes: scale and position of the strokes in them.
        invert: whether the strokes are dark on light; "auto" finds out.

    Raises:
        InputError: there are no strokes; the message does not name the file.
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
    """The place of a digit in a photo.

    Args:
        ink: float32 [H, W], 0 to 1.
        mask: bool [H, W], where the digit is.
        box: as in `ExtractedDigit`.
        digits: number of digits in the photo.
    """

    ink: np.ndarray
    mask: np.ndarray
    box: Box
    digits: int


def _find_digit(gray: np.ndarray) -> _FoundDigit | None:
    """Find the largest digit, dark on light, uint8 [H, W]."""
    for ink in _without_frames_and_lines(find_ink(gray)):
        components = find_components(ink > 0.5)
        digit, count = largest_digit(components.boxes, ink.shape)
        if digit:
            box = _as_fractions(enclosing_box(components.boxes[digit]), ink.shape)
            return _FoundDigit(ink, components.mask(digit), box, count)
    return None


def _is_paper_in_frames(found: _FoundDigit, gray: np.ndarray) -> bool:
    """Return whether light strokes are the paper inside of dark frames, uint8 [H, W]."""
    frames = find_frames(find_ink(gray))
    if not frames:
        return False
    inside = inside_of(frames, gray.shape)
    return bool(inside[found.mask].mean() > 0.5)


def _flatten(photo: Image.Image) -> Image.Image:
    """Lay a picture on white, or on black if it is mostly transparent with light strokes."""
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
    """Yield the places in which to look for a digit, best first, as ink [H, W] from 0 to 1.

    They are the inside of frames, then the outside without ruled lines, then all of the outside.
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
    """Return whether empty frames are the loops of a digit, whose strokes go on outside."""
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
    """Return a photo that looks like an image of the dataset, light on black, else None."""
    if photo.size != (image_size, image_size):
        return None
    gray = np.asarray(photo.convert("L"))
    if invert == "yes" or (invert == "auto" and _border(gray).mean() > 127):
        gray = 255 - gray
    offset = np.abs(center_of_mass(gray) - center_of_image(image_size, strokes)).max()
    is_light_on_black = np.percentile(_border(gray), 25) <= MAX_BLACK and gray.max() > 127
    return gray if offset < MAX_OFFSET and is_light_on_black else None


def _border(gray: np.ndarray) -> np.ndarray:
    """Return the pixels of the border, each corner twice."""
    return np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])

"""Extract one digit from a photo and return it as an image of the dataset.

photo -> ink (`ink.py`) -> connected components of one digit, without specks, lines and other digits
(`components.py`) -> scaled and centered as in the dataset (`render.py`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from src.errors import InputError
from src.extras.paper.components import enclosing_box, find_components, largest_digit
from src.extras.paper.ink import find_ink, ink_channel, is_dark_on_light
from src.extras.paper.render import center_of_image, center_of_mass, render_digit
from src.extras.paper.strokes import Strokes

Invert = Literal["auto", "yes", "no"]
Box = tuple[float, float, float, float]

MIN_SIDE = 280  # of the longer side of a photo, in pixels; smaller ones are enlarged
MAX_SIDE = 640  # larger ones are reduced
MAX_OFFSET = 1.5  # pixels off the center: more than in any image of the datasets


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
        photo: mode L or RGB, any size.
        image_size: side S of the dataset's images.
        strokes: scale and position of the strokes in them.
        invert: whether the strokes are dark on light; "auto" finds out.

    Raises:
        InputError: there are no strokes; the message does not name the file.
    """
    prepared = _as_dataset_image(photo, image_size, strokes, invert)
    if prepared is not None:
        return ExtractedDigit(prepared)
    gray = ink_channel(_resize(photo))
    dark = is_dark_on_light(gray) if invert == "auto" else invert == "yes"
    ink = find_ink(gray if dark else 255 - gray)
    components = find_components(ink > 0.5)
    digit, count = largest_digit(components.boxes, ink.shape)
    if not digit:
        raise InputError(
            "no strokes were found; show one digit in ink that stands out from the paper"
        )
    image = render_digit(ink, components.mask(digit), image_size, strokes)
    height, width = ink.shape
    left, top, right, bottom = enclosing_box(components.boxes[digit]).tolist()
    box = (left / width, top / height, right / width, bottom / height)
    return ExtractedDigit(image, box, count)


def _resize(photo: Image.Image) -> Image.Image:
    longer = max(photo.size)
    target = min(max(longer, MIN_SIDE), MAX_SIDE)
    if target == longer:
        return photo
    size = [max(1, round(side * (target / longer))) for side in photo.size]
    resampling = Image.Resampling.BICUBIC if target > longer else Image.Resampling.BOX
    return photo.resize(size, resampling)


def _as_dataset_image(
    photo: Image.Image, image_size: int, strokes: Strokes, invert: Invert
) -> np.ndarray | None:
    """Return a photo that looks like an image of the dataset, light on black, else None."""
    if photo.size != (image_size, image_size):
        return None
    gray = np.asarray(photo.convert("L"))
    if invert == "yes" or (invert == "auto" and _border(gray) > 127):
        gray = 255 - gray
    offset = np.abs(center_of_mass(gray) - center_of_image(image_size, strokes)).max()
    is_light_on_black = _border(gray) < 100 and gray.max() > 127
    return gray if offset < MAX_OFFSET and is_light_on_black else None


def _border(gray: np.ndarray) -> float:
    """Return the mean brightness of the border."""
    sides = (gray[0], gray[-1], gray[:, 0], gray[:, -1])
    return float(np.mean([side.mean() for side in sides]))

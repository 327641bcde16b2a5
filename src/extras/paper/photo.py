"""Convert a photo of one digit to the format of the dataset.

`search.py` finds the digit, and `render.py` scales and centers it as in the dataset.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from src.errors import InputError
from src.extras.paper.strokes import Strokes, center_of_mass, stroke_center

Invert = Literal["auto", "yes", "no"]
Box = tuple[float, float, float, float]

MAX_BLACK = 8  # maximum brightness of a black background, including JPEG noise
# Maximum offset from the center, in pixels. No dataset image has a larger offset.
MAX_OFFSET = 1.5


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
    is_dark = {"auto": None, "yes": True, "no": False}[invert]
    if photo.size == (image_size, image_size):
        prepared = _as_dataset_image(photo, strokes, is_dark)
        if prepared is not None:
            return ExtractedDigit(prepared)

    # Imported late: SciPy takes 0.2 s, and dataset images do not need it.
    from src.extras.paper.render import render_digit
    from src.extras.paper.search import find_digit

    found = find_digit(photo, is_dark)
    if found is None:
        raise InputError(
            "no strokes were found; show one digit in ink that stands out from the paper"
        )
    image = render_digit(found.ink, found.mask, found.box, image_size, strokes)
    height, width = found.ink.shape
    left, top, right, bottom = found.box.tolist()
    box = (left / width, top / height, right / width, bottom / height)
    return ExtractedDigit(image, box, found.digits)


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


def _as_dataset_image(
    photo: Image.Image, strokes: Strokes, is_dark: bool | None
) -> np.ndarray | None:
    """Return the photo as light on black if it looks like a dataset image, otherwise None."""
    gray = np.asarray(photo.convert("L"))
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    if is_dark is None:
        is_dark = border.mean() > 127
    if is_dark:
        gray, border = 255 - gray, 255 - border
    offset = np.abs(center_of_mass(gray) - stroke_center(len(gray), strokes)).max()
    is_light_on_black = np.percentile(border, 25) <= MAX_BLACK and gray.max() > 127
    return gray if offset < MAX_OFFSET and is_light_on_black else None

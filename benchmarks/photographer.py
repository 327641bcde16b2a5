"""Render digits as photos of ink on paper, for `benchmarks/photos.py`.

Photos are 240 to 640 pixels on a side, with an off-center digit rotated by up to 10 degrees, uneven
lighting, blur and noise. Half of them are JPEG files.
"""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.digit_ink import affine, dot, draw_center_lines, enlarge

PAPER_KINDS = ("plain", "squared", "shadow", "colored", "pen", "thin pen", "light", "clutter")


def photograph_paper(
    kind: str, digit: np.ndarray, rng: np.random.Generator
) -> tuple[Image.Image, int | None]:
    """Return a photo of a digit, and the JPEG quality to save it with (None: PNG).

    Args:
        kind: kind of photo: "plain"; "squared" (graph paper); "shadow" (the edge of a shadow);
            "colored" (colored paper); "pen" (stroke width 2.5% of the photo's height); "thin pen"
            (stroke width 2.5% of the digit's longer side); "light" (light pen on black paper);
            "clutter" (objects at the border).
        digit: light digit on black, uint8 [28, 28].
        rng: source of all randomness.
    """
    height, width = (int(side) for side in rng.integers(240, 641, 2))
    ink = place_ink(digit, height, width, kind, rng)[..., None]
    paper = np.broadcast_to(_paper_color(kind, rng), (height, width, 3)).copy()
    if kind == "squared":
        lines = _squares(height, width, rng)[..., None]
        darkness = rng.uniform(0.1, 0.35)
        paper *= 1 - lines * darkness * rng.uniform(0.5, 1, 3)
    darkest = rng.uniform(0.03, 0.3)
    pen = darkest + rng.uniform(-0.03, 0.15, 3)
    if kind == "light":
        pen = rng.uniform(0.75, 1, 3)
        paper *= rng.uniform(0.1, 0.3)
    picture = paper * (1 - ink) + pen.clip(0, 1) * ink
    picture *= uneven_light(height, width, rng)[..., None]
    if kind == "shadow":
        picture *= _shadow(height, width, rng)[..., None]
    if kind == "clutter":
        picture = _add_clutter(picture, rng)
    return expose(picture, rng)


def expose(picture: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, int | None]:
    """Blur a [H, W, 3] image in 0 to 1 and add noise; return it and a JPEG quality (None: PNG)."""
    height, width, _ = picture.shape
    image = to_image(picture)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2)))
    gray_noise = rng.normal(0, rng.uniform(2, 9), (height, width, 1))
    color_noise = rng.normal(0, rng.uniform(0, 4), (height, width, 3))
    noisy = np.asarray(image) + gray_noise + color_noise
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.convert("L")
    is_jpeg = rng.random() < 0.5
    return image, int(rng.integers(40, 93)) if is_jpeg else None


def to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def _paper_color(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the RGB reflectance of the paper."""
    if kind != "colored":
        return rng.uniform(0.78, 1) * rng.uniform(0.94, 1, 3)
    strong = rng.uniform(0.75, 1)
    weak = rng.uniform(0.3, 0.6)
    return rng.permutation([strong, weak, rng.uniform(weak, strong)])


def place_ink(
    digit: np.ndarray, height: int, width: int, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """Enlarge, rotate and move a digit; return its ink, float [height, width] from 0 to 1."""
    tall = rng.uniform(0.3, 0.7) * min(height, width)
    angle = math.radians(rng.uniform(-10, 10))
    room = tall * 0.62  # distance from center to border that keeps the digit inside the photo
    x, y = (rng.uniform(min(room, n / 2), max(room, n - room, n / 2)) for n in (width, height))
    to_digit = affine(digit, tall, angle, (x, y))
    if kind == "pen":
        return draw_center_lines(digit, to_digit, (width, height), height / 40)
    if kind == "thin pen":
        return draw_center_lines(digit, to_digit, (width, height), tall / 40)
    return enlarge(digit, to_digit, (width, height))


def _coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the y and x coordinates of all pixels, from -1 to 1."""
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    return np.meshgrid(y, x, indexing="ij")


def uneven_light(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return illumination that falls off toward one side and toward the corners."""
    y, x = _coordinates(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    slope = rng.uniform(0, 0.3) * (x * math.cos(angle) + y * math.sin(angle))
    light = rng.uniform(0.65, 1) + slope - rng.uniform(0, 0.12) * (x**2 + y**2)
    return light.clip(0.15, 1.1)


def _shadow(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return illumination with a shadow that has a sharp or soft edge near the center."""
    y, x = _coordinates(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    offset = x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.4, 0.4)
    distance = offset * min(height, width) / 2
    dark = rng.uniform(0.35, 0.7)
    return dark + (1 - dark) * (distance / rng.uniform(2, 40) + 0.5).clip(0, 1)


def _squares(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return the slightly rotated lines of graph paper, float from 0 to 1."""
    y, x = np.mgrid[:height, :width]
    step = min(height, width) * rng.uniform(1 / 22, 1 / 9)
    thickness = rng.uniform(1, 2.2)
    angle = math.radians(rng.uniform(-6, 6))
    shift = rng.uniform(0, step, 2)
    across = x * math.cos(angle) + y * math.sin(angle)
    down = y * math.cos(angle) - x * math.sin(angle)
    distance_x = np.abs((across + shift[0]) % step - step / 2)
    distance_y = np.abs((down + shift[1]) % step - step / 2)
    return ((thickness + 1) / 2 - np.minimum(distance_x, distance_y)).clip(0, 1)


def _add_clutter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add specks, a strip of the table beside the paper, and an object across the paper's edge."""
    height, width, _ = picture.shape
    image = to_image(picture)
    draw = ImageDraw.Draw(image)
    side = min(height, width)
    for _ in range(int(rng.integers(3, 12))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        dot(draw, (x, y), rng.uniform(0.5, side / 120), (40, 40, 45))
    x = rng.uniform(0, width)
    strip = rng.uniform(0.01, 0.04) * side
    right = strip * rng.uniform(0.2, 1)
    corners = [(-9, -9), (width + 9, -9), (width + 9, right), (-9, strip)]
    draw.polygon(corners, fill=tuple(int(v) for v in rng.uniform(20, 120, 3)))
    end = (x + side * rng.uniform(-0.1, 0.1), height - 1.5 * strip)
    draw.line([(x, height + 9), end], fill=(60, 60, 70), width=3)
    return np.asarray(image) / 255


def encode(image: Image.Image, quality: int | None) -> tuple[bytes, str]:
    """Encode an image as JPEG (PNG if `quality` is None); return bytes and file extension."""
    file = io.BytesIO()
    if quality is None:
        image.save(file, "PNG", compress_level=1)
        return file.getvalue(), "png"
    image.save(file, "JPEG", quality=quality)
    return file.getvalue(), "jpg"

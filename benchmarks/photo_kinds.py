"""Draw an MNIST digit as many kinds of pictures, for `benchmarks/photos.py`.

Photos of paper have uneven lighting, blur and noise, and half of them are JPEG files. Each function
in `KINDS` takes a digit, uint8 [28, 28], and the source of all randomness. It returns the bytes of
an image file and its extension.
"""

import io
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.digit_ink import draw_digit

Rng = np.random.Generator
File = tuple[bytes, str]

# RGB colors
INKS = np.array([[0, 0, 0], [0.9, 0.1, 0.1], [0.1, 0.2, 0.8]])
BRIGHT_INKS = np.array([[1, 1, 1], [0.9, 0.9, 0.3], [0.5, 0.8, 1]])


# Images of the dataset's size


def gray_paper(brightness: int, digit: np.ndarray, rng: Rng) -> File:
    """Draw a dark 28x28 digit on paper of uniform brightness."""
    return encode(to_image(brightness / 255 * (1 - digit / 255)))


def shifted(digit: np.ndarray, rng: Rng) -> File:
    """Shift a white-on-black 28x28 digit by 2 to 4 pixels along both axes."""
    steps = rng.integers(2, 5, 2) * rng.choice([-1, 1], 2)
    return encode(Image.fromarray(np.roll(digit, steps, (0, 1))))


# Screens


def _drawing(digit: np.ndarray, rng: Rng) -> np.ndarray:
    """Return noise-free ink, as drawn with a paint program, float [H, W]."""
    width, height = _sizes(rng, 240)
    tall = rng.uniform(0.4, 0.7) * min(height, width)
    place = width / 2 + rng.uniform(-0.1, 0.1) * width, height / 2 + 0.05 * height
    degrees = rng.uniform(-5, 5)
    pen = tall * rng.uniform(0.05, 0.12) if rng.random() < 0.5 else 0
    return draw_digit(digit, (width, height), tall, degrees, place, pen)


def transparent(digit: np.ndarray, rng: Rng) -> File:
    """Draw white strokes on a transparent background."""
    ink = _drawing(digit, rng)
    pixels = np.full((*ink.shape, 4), 255, np.uint8)
    pixels[..., 3] = (255 * ink).round()
    if rng.random() < 0.5:
        pixels[ink == 0] = 0
    return encode(Image.fromarray(pixels))


def paint(digit: np.ndarray, rng: Rng) -> File:
    """Draw black or colored strokes on a white background."""
    ink = _drawing(digit, rng)[..., None]
    return encode(to_image(1 - ink * (1 - rng.choice(INKS))))


def dark_app(digit: np.ndarray, rng: Rng) -> File:
    """Draw light strokes on the dark canvas of a paint program, with a toolbar."""
    ink = _drawing(digit, rng)[..., None]
    ground = rng.uniform(10, 50) / 255
    image = to_image(ground + ink * (rng.choice(BRIGHT_INKS) - ground))
    width, height = image.size
    bar = round(rng.uniform(0.07, 0.2) * min(height, width))
    bar_gray = int(rng.uniform(255 * ground + 12, 240))
    draw = ImageDraw.Draw(image)
    is_top = rng.random() < 0.5
    draw.rectangle([(0, 0), (width, bar) if is_top else (bar, height)], fill=(bar_gray,) * 3)
    for number in range(int(rng.integers(4, 9))):
        along = bar * (0.6 + 1.1 * number)
        x, y = (along, bar / 2) if is_top else (bar / 2, along)
        icon = tuple((bar_gray + int(v)) % 256 for v in rng.uniform(90, 166, 3))
        box = [x - 0.3 * bar, y - 0.3 * bar, x + 0.3 * bar, y + 0.3 * bar]
        if rng.random() < 0.5:
            draw.ellipse(box, fill=icon)
        else:
            draw.rectangle(box, outline=icon, width=2)
    return encode(image)


# Paper


def paper(kind: str, digit: np.ndarray, rng: Rng) -> File:
    """Draw a photo of a digit on paper.

    Args:
        kind: "plain"; "shadow" (the edge of a shadow); "pen" (stroke width 2.5% of the photo's
            height); "thin pen" (2.5% of the digit's longer side); "light" (light pen on black
            paper).
        digit: light digit on black.
        rng: source of all randomness.
    """
    height, width = _sizes(rng, 240)
    tall = rng.uniform(0.3, 0.7) * min(height, width)
    degrees = rng.uniform(-10, 10)
    pen = {"pen": height / 40, "thin pen": tall / 40}.get(kind, 0)
    place = _place(width, height, tall, rng)
    ink = draw_digit(digit, (width, height), tall, degrees, place, pen)[..., None]
    color = rng.uniform(0.78, 1) * rng.uniform(0.94, 1, 3)
    ink_color = rng.uniform(0.03, 0.3) + rng.uniform(-0.03, 0.15, 3)
    if kind == "light":
        ink_color = rng.uniform(0.75, 1, 3)
        color = color * rng.uniform(0.1, 0.3)
    picture = color * (1 - ink) + ink_color.clip(0, 1) * ink
    picture *= uneven_light(height, width, rng)[..., None]
    if kind == "shadow":
        picture *= _shadow(height, width, rng)[..., None]
    return expose(picture, rng)


def _shadow(height: int, width: int, rng: Rng) -> np.ndarray:
    """Return illumination with a shadow that has a sharp or soft edge near the center."""
    offset = _slope(height, width, rng) - rng.uniform(-0.4, 0.4)
    distance = offset * min(height, width) / 2
    dark = rng.uniform(0.35, 0.7)
    return dark + (1 - dark) * (distance / rng.uniform(2, 40) + 0.5).clip(0, 1)


def lined(digit: np.ndarray, rng: Rng) -> File:
    """Draw a digit on ruled paper."""
    height, width, sheet = blank_sheet(rng)
    step = height * rng.uniform(1 / 14, 1 / 7)
    y = np.arange(height)[:, None] + np.arange(width) * rng.uniform(-0.03, 0.03)
    line = (np.abs((y + rng.uniform(0, step)) % step - step / 2) < 0.9)[..., None]
    sheet = sheet * (1 - line * rng.uniform(0.1, 0.35) * np.array([1, 0.8, 0.4]))
    tall = rng.uniform(0.3, 0.65) * min(height, width)
    place = _place(width, height, tall, rng)
    return write(sheet, digit, tall, rng.uniform(-10, 10), place, rng)


def margin(digit: np.ndarray, rng: Rng) -> File:
    """Draw a digit across the margin line of a page."""
    height, width, sheet = blank_sheet(rng)
    tall = rng.uniform(0.3, 0.65) * min(height, width)
    x, y = _place(width, height, tall, rng)
    line = Image.new("L", (width, height))
    middle = x + tall * rng.uniform(-0.3, 0.3)
    lean = rng.uniform(-0.02, 0.02) * height
    ends = [(middle - lean, -9), (middle + lean, height + 9)]
    ImageDraw.Draw(line).line(ends, fill=255, width=int(rng.integers(2, 6)))
    red = np.array([rng.uniform(0.4, 0.9), 0.15, 0.15]) if rng.random() < 0.5 else 0.2
    ruled = np.asarray(line)[..., None] / 255
    sheet = sheet * (1 - ruled) + sheet * red * ruled
    return write(sheet, digit, tall, rng.uniform(-10, 10), (x, y), rng)


def marker(digit: np.ndarray, rng: Rng) -> File:
    """Draw a thick digit that fills the image and touches its border."""
    rows, columns = np.nonzero(digit > 60)
    tall = rng.uniform(260, 560)
    height, width = (
        max(200, round(tall / 20 * (np.ptp(pixels) + 1) * rng.uniform(0.98, 1.02)))
        for pixels in (rows, columns)
    )
    sheet = uneven_light(height, width, rng)[..., None] * np.full(3, 0.95)
    place = (width / 2, height / 2)
    return write(sheet, digit, tall, 0, place, rng, darkest=0.2)


def boxes(count: int, digit: np.ndarray, rng: Rng) -> File:
    """Draw a digit in one of `count` boxes; in half of the photos, the boxes touch."""
    height, width, sheet = blank_sheet(rng)
    most = min(0.8 * height, 0.94 * width / count)
    side = most * rng.uniform(0.75, 1)
    gap = 0 if rng.random() < 0.5 else min(0.15 * side, 0.94 * width / count - side)
    angle = math.radians(rng.uniform(-3, 3))
    cos, sin = math.cos(angle), math.sin(angle)
    thickness = max(1, round(4 * rng.uniform(1.2, 3)))
    canvas = Image.new("L", (4 * width, 4 * height))
    draw = ImageDraw.Draw(canvas)
    centers = []

    def locate(x: float, y: float) -> tuple[float, float]:
        return width / 2 + cos * x - sin * y, height / 2 + sin * x + cos * y

    for number in range(count):
        left = (side + gap) * (number - count / 2) + gap / 2
        right, top, bottom = left + side, -side / 2, side / 2
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        points = [tuple(4 * v for v in locate(x, y)) for x, y in corners]
        draw.line(points, fill=255, width=thickness, joint="curve")
        centers.append(locate((left + right) / 2, 0))
    frame = np.asarray(canvas.resize((width, height), Image.Resampling.BOX)) / 255
    sheet = apply_ink(sheet, frame, rng)
    x, y = centers[int(rng.integers(count))]
    tall = side * rng.uniform(0.5, 0.75)
    place = (x + side * rng.uniform(-0.06, 0.06), y + side * rng.uniform(-0.06, 0.06))
    return write(sheet, digit, tall, rng.uniform(-8, 8), place, rng)


# Sheets, ink and light


def _sizes(rng: Rng, least: int) -> tuple[int, int]:
    first, second = (int(side) for side in rng.integers(least, 641, 2))
    return first, second


def _place(width: int, height: int, tall: float, rng: Rng) -> tuple[float, float]:
    """Return a random position at which the digit is inside the picture."""
    room = tall * 0.62  # distance from center to border
    return rng.uniform(room, width - room), rng.uniform(room, height - room)


def blank_sheet(rng: Rng) -> tuple[int, int, np.ndarray]:
    """Return the height, the width, and an image of blank, unevenly lit paper, [H, W, 3]."""
    height, width = _sizes(rng, 300)
    color = rng.uniform(0.8, 1) * rng.uniform(0.94, 1, 3)
    return height, width, uneven_light(height, width, rng)[..., None] * color


def write(
    sheet: np.ndarray,
    digit: np.ndarray,
    tall: float,
    degrees: float,
    place: tuple[float, float],
    rng: Rng,
    darkest: float = 0.3,
) -> File:
    """Write a digit on a sheet, and take a photo of it."""
    height, width, _ = sheet.shape
    ink = draw_digit(digit, (width, height), tall, degrees, place)
    return expose(apply_ink(sheet, ink, rng, darkest), rng)


def apply_ink(sheet: np.ndarray, ink: np.ndarray, rng: Rng, darkest: float = 0.3) -> np.ndarray:
    return sheet * (1 - ink[..., None] * (1 - rng.uniform(0.03, darkest)))


def _slope(height: int, width: int, rng: Rng) -> np.ndarray:
    """Return a plane through 0 that rises in a random direction, [H, W]."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    angle = rng.uniform(0, 2 * math.pi)
    return x * math.cos(angle) + y * math.sin(angle)


def uneven_light(height: int, width: int, rng: Rng) -> np.ndarray:
    """Return illumination that falls off toward one side and toward the corners."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    plane = _slope(height, width, rng)
    slope = rng.uniform(0, 0.3) * plane
    light = rng.uniform(0.65, 1) + slope - rng.uniform(0, 0.12) * (x**2 + y**2)
    return light.clip(0.15, 1.1)


def expose(picture: np.ndarray, rng: Rng) -> File:
    """Blur an image ([H, W, 3], from 0 to 1), add noise, and encode it as JPEG or PNG."""
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
    return encode(image, int(rng.integers(40, 93)) if is_jpeg else None)


def to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def encode(image: Image.Image, quality: int | None = None) -> File:
    """Encode an image as JPEG (PNG if `quality` is None)."""
    file = io.BytesIO()
    if quality is None:
        image.save(file, "PNG", compress_level=1)
        return file.getvalue(), "png"
    image.save(file, "JPEG", quality=quality)
    return file.getvalue(), "jpg"


PAPER_KINDS = ("plain", "shadow", "pen", "thin pen", "light")
KINDS: dict[str, Callable[[np.ndarray, Rng], File]] = {
    **{kind: partial(paper, kind) for kind in PAPER_KINDS},
    **{f"gray {n}": partial(gray_paper, n) for n in (245, 215, 200, 160)},
    "shifted": shifted,
    "five boxes": partial(boxes, 5),
    "one box": partial(boxes, 1),
    "margin": margin,
    "marker": marker,
    "transparent": transparent,
    "dark app": dark_app,
    "paint": paint,
    "lined": lined,
}

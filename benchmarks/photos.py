"""Render test digits of MNIST as photos of ink on paper, and count how many of them a trained network reads.

python -m benchmarks.photos data/runs/mnist/version_0
python -m benchmarks.photos data/runs/mnist/version_0 --split val --seeds 10 11     to tune on
python -m benchmarks.photos data/runs/mnist/version_0 --count 20 --keep photos      to look at

A photo has sides of 240 to 640 pixels, a digit off the center, turned by up to 10 degrees, uneven light, blur and
noise; every second one is a JPEG. The kinds add to that: squared paper, the edge of a shadow, colored paper, a thin pen
(a fortieth of the photo's height, or of the digit's), a light pen on black, clutter at the border.
"""

import argparse
import io
import math
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from src.data.modules import MNISTDataModule
from src.errors import InputError, exit_on_input_error
from src.inference.predictor import Predictor
from src.runs.directory import find_checkpoint

KINDS = ("plain", "squared", "shadow", "colored", "pen", "thin pen", "light", "clutter")
DARK, LIGHT = 0.0, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="directory of a finished run on MNIST, or a checkpoint")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], help="one row of the table each"
    )
    parser.add_argument("--count", type=int, default=200, help="photos of a kind and seed")
    parser.add_argument(
        "--split",
        default="test",
        choices=("val", "test"),
        help="val: the digits held out in training",
    )
    parser.add_argument("--data", default="data", help="folder of the datasets")
    parser.add_argument(
        "--keep",
        metavar="DIR",
        help="folder to write the photos to; the wrong ones begin with 'wrong'",
    )
    options = parser.parse_args()
    predictor = Predictor(find_checkpoint(options.run), "cpu")
    data = MNISTDataModule(root=options.data, val_fraction=0.05)  # as configs/mnist.yaml splits it
    data.prepare_data()
    digits = data.sets[options.split]
    print(f"{'seed':<10}{'originals':>12}", *(f"{kind:>10}" for kind in options.kinds))
    for seed in options.seeds:
        chosen = np.random.default_rng(seed).permutation(len(digits))[: options.count]
        labels = digits.labels[chosen].tolist()
        right = [
            sum(a == b for a, b in zip(labels, read(predictor, digits.images[chosen]), strict=True))
        ]
        for kind in options.kinds:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(options.keep or temporary) / f"{kind}_{seed}".replace(" ", "_")
                right.append(
                    count_right(
                        predictor, digits.images[chosen, 0].numpy(), labels, kind, seed, folder
                    )
                )
        print(
            f"{seed:<10}{right[0]:>8}/{len(labels)}",
            *(f"{n:>6}/{len(labels)}" for n in right[1:]),
            flush=True,
        )


def read(predictor: Predictor, images) -> list[int]:
    return predictor.probabilities(images).argmax(dim=1).tolist()


def count_right(
    predictor: Predictor, digits: np.ndarray, labels: list, kind: str, seed: int, keep: Path
) -> int:
    """Photos of uint8 digits [N, 28, 28], written to the folder `keep`, that are read as what they are."""
    right = 0
    keep.mkdir(parents=True, exist_ok=True)
    for number, (digit, label) in enumerate(zip(digits, labels, strict=True)):
        photo, ending = photograph(digit, kind, np.random.default_rng([seed, number]))
        path = keep / f"{number:03}_is_{label}.{ending}"
        path.write_bytes(photo)
        try:
            (answer,) = read(predictor, predictor.read([str(path)]))
        except InputError:
            answer = None  # nothing was found in it
        right += answer == label
        if answer != label:
            path.rename(keep / f"wrong_{number:03}_is_{label}_read_{answer}.{ending}")
    return right


# The photographer -----------------------------------------------------------------------------------------------------


def photograph(digit: np.ndarray, kind: str, chance: np.random.Generator) -> tuple[bytes, str]:
    """A photo of the digit, uint8 [28, 28], as the bytes of a file, and the ending of its name."""
    height, width = (int(side) for side in chance.integers(240, 641, 2))
    ink = ink_on(digit, height, width, kind, chance)[..., None]
    paper = np.broadcast_to(paper_of(kind, chance), (height, width, 3)).copy()
    if kind == "squared":
        paper *= 1 - squares(height, width, chance)[..., None] * chance.uniform(
            0.1, 0.35
        ) * chance.uniform(0.5, 1, 3)
    pen = chance.uniform(0.03, 0.3) + chance.uniform(-0.03, 0.15, 3)
    if kind == "light":
        pen, paper = chance.uniform(0.75, 1, 3), paper * chance.uniform(0.1, 0.3)
    picture = (paper * (1 - ink) + pen.clip(0, 1) * ink) * light_on(height, width, chance)[
        ..., None
    ]
    if kind == "shadow":
        picture *= shadow(height, width, chance)[..., None]
    if kind == "clutter":
        picture = clutter(picture, chance)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 2)))
    noisy = np.asarray(image) + chance.normal(0, chance.uniform(2, 9), (height, width, 1))
    noisy += chance.normal(0, chance.uniform(0, 4), (height, width, 3))
    image, file, ending = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), io.BytesIO(), "png"
    if chance.random() < 0.3:
        image = image.convert("L")
    if chance.random() < 0.5:
        ending = "jpg"
        image.save(file, "JPEG", quality=int(chance.integers(40, 93)))
    else:
        image.save(file, "PNG", compress_level=1)
    return file.getvalue(), ending


def paper_of(kind: str, chance: np.random.Generator) -> np.ndarray:
    """Reflectance of the paper, red, green and blue."""
    if kind != "colored":
        return chance.uniform(0.78, 1) * chance.uniform(0.94, 1, 3)
    strong, weak = chance.uniform(0.75, 1), chance.uniform(0.3, 0.6)
    return chance.permutation([strong, weak, chance.uniform(weak, strong)])


def ink_on(
    digit: np.ndarray, height: int, width: int, kind: str, chance: np.random.Generator
) -> np.ndarray:
    """How much ink there is, 0 to 1, float [height, width]: the digit enlarged, turned and put somewhere."""
    tall = chance.uniform(0.3, 0.7) * min(
        height, width
    )  # of the ink, in pixels; it is 20 pixels tall or wide in MNIST
    scale, angle = tall / 20, math.radians(chance.uniform(-10, 10))
    rows, columns = np.nonzero(digit > 60)
    middle = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    room = tall * 0.62  # from the middle of the ink to the border, so that none of it is cut off
    x, y = (
        chance.uniform(min(room, side / 2), max(side - room, side / 2)) for side in (width, height)
    )
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    inverse = (cos, sin, middle[0] - cos * x - sin * y, -sin, cos, middle[1] + sin * x - cos * y)
    if kind in ("pen", "thin pen"):
        pen = height / 40 if kind == "pen" else tall / 40
        return drawn(digit, np.array(inverse), (width, height), pen)
    smooth = Image.fromarray(digit).resize((224, 224), Image.Resampling.BICUBIC)
    inverse = tuple(8 * value for value in inverse)
    image = smooth.transform(
        (width, height), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC
    )
    return ((np.asarray(image) / 255 - 0.3) / 0.4).clip(
        0, 1
    )  # the edge of ink is sharper than that of 28 pixels


def drawn(digit: np.ndarray, inverse: np.ndarray, size: tuple[int, int], pen: float) -> np.ndarray:
    """The middle lines of the digit's strokes, drawn with a round pen of this many pixels."""
    large = np.asarray(Image.fromarray(digit).resize((112, 112), Image.Resampling.BICUBIC)) > 140
    line = thinned(np.pad(large, 1))[1:-1, 1:-1]
    to_photo = np.linalg.inv(np.vstack([inverse.reshape(2, 3), [0, 0, 1]]))
    canvas = Image.new("L", (4 * size[0], 4 * size[1]))
    draw = ImageDraw.Draw(canvas)
    for y, x in np.argwhere(line):
        here = _place(to_photo, x, y)
        _dot(draw, here, 2 * pen)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if 0 <= x + dx < 112 and y + dy < 112 and line[y + dy, x + dx]:
                draw.line(
                    [here, _place(to_photo, x + dx, y + dy)], fill=255, width=max(1, round(4 * pen))
                )
    return np.asarray(canvas.resize(size, Image.Resampling.BOX)) / 255


def _place(to_photo: np.ndarray, x: int, y: int) -> tuple[float, float]:
    px, py, _ = to_photo @ ((x + 0.5) / 4, (y + 0.5) / 4, 1)
    return 4 * px, 4 * py


def _dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, color=255) -> None:
    draw.ellipse(
        [place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius], fill=color
    )


def thinned(mask: np.ndarray) -> np.ndarray:
    """Lines of one pixel along the middle of the strokes, bool [H, W] (Zhang and Suen 1984)."""
    mask = mask.copy()
    while True:
        before = mask.sum()
        for first in (True, False):
            p = [
                np.roll(mask, shift, (0, 1))
                for shift in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
            ]
            count = sum(n.astype(int) for n in p)
            turns = sum((~a & b).astype(int) for a, b in zip(p, p[1:] + p[:1], strict=True))
            north, east, south, west = p[0], p[2], p[4], p[6]
            if first:
                open_side = ~(north & east & south) & ~(east & south & west)
            else:
                open_side = ~(north & east & west) & ~(north & south & west)
            mask &= ~((count >= 2) & (count <= 6) & (turns == 1) & open_side)
        if mask.sum() == before:
            return mask


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels, -1 to 1 from side to side."""
    return np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")


def light_on(height: int, width: int, chance: np.random.Generator) -> np.ndarray:
    """Uneven light: brighter towards one side, darker towards the corners."""
    (y, x), angle = _grid(height, width), chance.uniform(0, 2 * math.pi)
    slope = chance.uniform(0, 0.3) * (x * math.cos(angle) + y * math.sin(angle))
    return (chance.uniform(0.65, 1) + slope - chance.uniform(0, 0.12) * (x**2 + y**2)).clip(
        0.15, 1.1
    )


def shadow(height: int, width: int, chance: np.random.Generator) -> np.ndarray:
    """A shadow over one side, its edge anywhere near the middle, sharp or soft."""
    (y, x), angle = _grid(height, width), chance.uniform(0, 2 * math.pi)
    distance = (
        (x * math.cos(angle) + y * math.sin(angle) - chance.uniform(-0.4, 0.4))
        * min(height, width)
        / 2
    )
    dark = chance.uniform(0.35, 0.7)
    return dark + (1 - dark) * (distance / chance.uniform(2, 40) + 0.5).clip(0, 1)


def squares(height: int, width: int, chance: np.random.Generator) -> np.ndarray:
    """The lines of squared paper, slightly turned, 0 to 1."""
    y, x = np.mgrid[:height, :width]
    step, thickness = min(height, width) * chance.uniform(1 / 22, 1 / 9), chance.uniform(1, 2.2)
    angle, shift = math.radians(chance.uniform(-6, 6)), chance.uniform(0, step, 2)
    across, down = (
        x * math.cos(angle) + y * math.sin(angle),
        y * math.cos(angle) - x * math.sin(angle),
    )
    lines = [
        np.abs((place + s) % step - step / 2)
        for place, s in zip((across, down), shift, strict=True)
    ]
    return ((thickness + 1) / 2 - np.minimum(*lines)).clip(0, 1)


def clutter(picture: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The table beside the paper, specks on it, and something that lies on its edge."""
    height, width, _ = picture.shape
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    side = min(height, width)
    for _ in range(int(chance.integers(3, 12))):
        x, y = chance.uniform(0, width), chance.uniform(0, height)
        _dot(draw, (x, y), chance.uniform(0.5, side / 120), (40, 40, 45))
    x = chance.uniform(0, width)
    strip = chance.uniform(0.01, 0.04) * side
    corners = [(-9, -9), (width + 9, -9), (width + 9, strip * chance.uniform(0.2, 1)), (-9, strip)]
    draw.polygon(corners, fill=tuple(int(v) for v in chance.uniform(20, 120, 3)))
    draw.line(
        [(x, height + 9), (x + side * chance.uniform(-0.1, 0.1), height - 1.5 * strip)],
        fill=(60, 60, 70),
        width=3,
    )
    return np.asarray(image) / 255


if __name__ == "__main__":
    with exit_on_input_error():
        main()

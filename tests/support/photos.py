"""Create class folders with images, and draw digits, for tests."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

Stroke = list[tuple[float, float]]  # points in the unit square

ONE: list[Stroke] = [[(0.52, 0.2), (0.48, 0.8)]]
FOUR: list[Stroke] = [
    [(0.4, 0.2), (0.3, 0.55), (0.7, 0.55)],
    [(0.6, 0.25), (0.58, 0.8)],
]
SEVEN: list[Stroke] = [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.75)]]
RIGHT_OF_ZERO: Stroke = [(0.5, 0.2), (0.66, 0.3), (0.7, 0.5), (0.66, 0.7), (0.5, 0.8)]
LEFT_OF_ZERO: Stroke = [(0.34, 0.7), (0.3, 0.5), (0.34, 0.3), (0.5, 0.2)]
ZERO: list[Stroke] = [RIGHT_OF_ZERO + LEFT_OF_ZERO]


def class_folders(
    root: Path,
    classes: Iterable[str],
    size: tuple[int, int],
    ending: str = "png",
    **counts: int,
) -> Path:
    """Write `root/<split>/<class>/<index>.<ending>` and return `root`.

    Args:
        root: folder to create.
        classes: names of the class folders.
        size: width and height of the images. Each image has one uniform color:
            (20 * class, 20 * index, 1 in `test` and 0 in other splits).
        ending: file name extension, which determines the image format.
        counts: number of images per class for each split.
    """
    for split, count in counts.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                color = (20 * label, 20 * index, int(split == "test"))
                Image.new("RGB", size, color).save(folder / f"{index}.{ending}")
    return root


def written(
    strokes: list[Stroke],
    size: tuple[int, int] = (320, 300),
    pen: int = 16,
    ink=40,
    paper=220,
    mode: str = "L",
) -> Image.Image:
    """Return an image with the strokes drawn inside its largest centered square."""
    picture = Image.new(mode, size, paper)
    write_on(picture, strokes, pen, ink)
    return picture


def write_on(
    picture: Image.Image,
    strokes: list[Stroke],
    pen: int,
    ink,
    middle: float = 0.5,
    side: float = 1,
) -> None:
    """Draw strokes with a round pen.

    Args:
        picture: image to draw on, in place.
        strokes: polylines in the unit square.
        pen: pen width in pixels.
        ink: pen color.
        middle: horizontal center of the square, as a fraction of the image width.
        side: side length of the square, as a fraction of the shorter side of the image.
    """
    side *= min(picture.size)
    left = middle * picture.width - side / 2
    top = (picture.height - side) / 2
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        points = [(left + x * side, top + y * side) for x, y in stroke]
        draw.line(points, fill=ink, width=pen)
        if pen > 2:
            for x, y in points:
                draw.circle((x, y), pen / 2, fill=ink)

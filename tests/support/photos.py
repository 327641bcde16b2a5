"""Folders of class images on disk, and digits drawn with a pen."""

from pathlib import Path

from PIL import Image, ImageDraw

ONE = [[(0.52, 0.2), (0.48, 0.8)]]
FOUR = [
    [(0.4, 0.2), (0.3, 0.55), (0.7, 0.55)],
    [(0.6, 0.25), (0.58, 0.8)],
]  # strokes in a square of side 1
SEVEN = [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.75)]]
ZERO = [
    [
        (0.5, 0.2),
        (0.66, 0.3),
        (0.7, 0.5),
        (0.66, 0.7),
        (0.5, 0.8),
        (0.34, 0.7),
        (0.3, 0.5),
        (0.34, 0.3),
        (0.5, 0.2),
    ]
]


def class_folders(
    root: Path, classes, size: tuple[int, int], ending: str = "png", **counts: int
) -> Path:
    """Write `root/<split>/<class>/<index>.<ending>`: of each class so many images of one color, as `counts` says.

    The color is (20 * class, 20 * index, 1 in `test`, else 0). Returns `root`.
    """
    for split, count in counts.items():
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", size, (20 * label, 20 * index, split == "test")).save(
                    folder / f"{index}.{ending}"
                )
    return root


def written(
    strokes: list,
    size: tuple[int, int] = (320, 300),
    pen: int = 16,
    ink=40,
    paper=220,
    mode: str = "L",
) -> Image.Image:
    """A picture of that size with strokes in the square in its middle, in that ink, by a round pen."""
    picture = Image.new(mode, size, paper)
    write_on(picture, strokes, pen, ink)
    return picture


def write_on(
    picture: Image.Image, strokes: list, pen: int, ink, middle: float = 0.5, side: float = 1
) -> None:
    """Draw strokes in a square whose middle is so far from the left, and whose side is that part of the shorter one."""
    side *= min(picture.size)
    left, top, draw = (
        middle * picture.width - side / 2,
        (picture.height - side) / 2,
        ImageDraw.Draw(picture),
    )
    for stroke in strokes:
        points = [(left + x * side, top + y * side) for x, y in stroke]
        draw.line(points, fill=ink, width=pen)
        for x, y in points if pen > 2 else ():
            draw.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=ink)

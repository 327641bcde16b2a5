"""Photos of a digit on paper -> what a network knows that has learned from light strokes on black.

photo -> ink (`ink.py`) -> the pieces of one digit, without specks, lines and other digits -> scaled and centered as the
dataset was, uint8 [S, S].
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from src.data.datasets import Strokes
from src.errors import InputError
from src.extras.paper.ink import find_ink, is_dark_on_light, slide, telling_channel

INVERT = ("auto", "yes", "no")  # are the strokes dark on light? find out; yes; no
SIDES = (
    280,
    640,
)  # of the longer side of a photo, in pixels; smaller ones are enlarged, larger ones reduced
FINE = 8  # pixels for one of the dataset, while a digit is scaled and centered
OFF_CENTER = 1.5  # pixels from the middle: more than in any image of the datasets
SPECK = 0.02  # of the shorter side of a photo; smaller pieces are not looked at
NEAR = 0.12  # of the size of a digit: the gap to a piece that is a part of it
CLOSE = 0.05  # the same for a piece that may as well be something else: the edge of the table, or the next digit


class Developed(NamedTuple):
    """What was made of a photo.

    image: uint8 [S, S], what the network is given.
    box: left, top, right and bottom of the digit, as fractions of the photo's sides; None where it was left untouched.
    digits: how many digits are in the photo; the largest is in `image`.
    """

    image: np.ndarray
    box: tuple[float, float, float, float] | None = None
    digits: int = 1


def develop(
    photo: Image.Image, image_size: int, strokes: Strokes, invert: str = "auto"
) -> Developed:
    """Make of a photo what an image of the dataset looks like; an image that already does is left untouched.

    Args:
        photo: of mode L or RGB and any size.
        image_size: side S of the dataset's images.
        strokes: how these were made.
        invert: whether strokes are dark on light: "yes", "no", or "auto" to find that out.

    Raises:
        InputError: there are no strokes in it; the message does not name the file.
    """
    if photo.size == (image_size, image_size):
        gray = np.asarray(photo.convert("L"))
        if invert == "yes" or (invert == "auto" and _border(gray) > 127):
            gray = 255 - gray
        if _is_finished(gray, strokes):
            return Developed(gray)
    gray = telling_channel(_sized(photo))
    dark = is_dark_on_light(gray) if invert == "auto" else invert == "yes"
    ink = find_ink(gray if dark else 255 - gray)
    runs, labels, boxes = connected(ink > 0.5)
    chosen, digits = choose(boxes, ink.shape)
    if not len(chosen):
        raise InputError(
            "no strokes were found in it; show one digit, in ink that stands out from the paper"
        )
    mask = drawn(runs[np.isin(labels, chosen)], ink.shape)
    box = _around(boxes[chosen]) / np.tile(ink.shape[::-1], 2)
    return Developed(finished(ink, mask, image_size, strokes), tuple(box.tolist()), digits)


def _sized(photo: Image.Image) -> Image.Image:
    longer = max(photo.size)
    factor = min(max(longer, SIDES[0]), SIDES[1]) / longer
    if factor == 1:
        return photo
    size = [max(1, round(side * factor)) for side in photo.size]
    return photo.resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)


def _is_finished(gray: np.ndarray, strokes: Strokes) -> bool:
    """Whether an image of the dataset's size, light on dark, is centered as the dataset is."""
    mass = gray / max(1, gray.sum())
    places = [(mass.sum(axis) * (np.arange(len(gray)) + 0.5)).sum() for axis in (0, 1)]
    centered = max(abs(place - _middle(len(gray), strokes)) for place in places) < OFF_CENTER
    return (
        centered and _border(gray) < 100 and gray.max() > 127
    )  # of a blank one all is as dark as its border


def _border(gray: np.ndarray) -> float:
    return float(np.mean([gray[0].mean(), gray[-1].mean(), gray[:, 0].mean(), gray[:, -1].mean()]))


def _middle(size: int, strokes: Strokes) -> float:
    """Where the center is put, in pixels from the left and top: MNIST has its mass in the middle of pixel 14 of 28."""
    return (size + 1) / 2 if strokes.center == "mass" else size / 2


# Ink -> one digit -----------------------------------------------------------------------------------------------------


def connected(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The connected pieces (8 neighbors) of a mask, bool [H, W].

    Returns:
        Runs of True in the rows [R, 3]: row, start, end; the piece of each run [R]; the boxes of the pieces [P, 4]:
        left, top, right, bottom.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    labels = np.unique(_joined(rows, starts, ends, len(mask)), return_inverse=True)[1]
    count = labels.max(initial=-1) + 1

    def extreme(function: np.ufunc, values: np.ndarray, start: int) -> np.ndarray:
        function.at(found := np.full(count, start), labels, values)
        return found

    boxes = [extreme(np.minimum, values, mask.size) for values in (starts, rows)]
    boxes += [extreme(np.maximum, values, 0) for values in (ends, rows + 1)]
    return np.stack([rows, starts, ends], axis=1), labels, np.stack(boxes, axis=1)


def _joined(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, height: int) -> list[int]:
    """For each run the first run of its piece: those of neighboring rows that touch are joined (union-find)."""
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    first = np.searchsorted(rows, np.arange(height + 1)).tolist()
    starts, ends = starts.tolist(), ends.tolist()
    for row in range(1, height):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if starts[above] <= ends[here] and starts[here] <= ends[above]:
                parents[root(here)] = root(above)
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    return [root(run) for run in parents]


def choose(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[list[int], int]:
    """The pieces of the largest digit, and how many digits there are, from the boxes [P, 4] of all pieces.

    A digit is the largest piece and those near it; what reaches the border of the photo is one if nothing else is.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]  # width, height
    sides = sizes.max(axis=1, initial=0)
    cut = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == shape[::-1]).any(axis=1)
    rest = np.argsort(-sides * np.where(cut, 0.3, 1), kind="stable")
    rest, digits = rest[sides[rest] >= SPECK * min(shape)], []
    while len(rest):
        digit, rest, near = rest[:1], rest[1:], True
        while np.any(near):
            box = _around(boxes[digit])
            side, height = (box[2:] - box[:2]).max(), box[3] - box[1]
            gaps = np.maximum(
                boxes[rest, :2] - box[2:], box[:2] - boxes[rest, 2:]
            )  # [R, 2], across and down
            next_digit = (gaps[:, 0] > gaps[:, 1]) & (sizes[rest, 1] > 0.6 * height)
            limit = np.where(cut[rest] | next_digit, CLOSE, NEAR) * side
            near = (gaps.max(axis=1) <= limit) & ~(cut[rest] & (sides[rest] > side))
            digit, rest = np.concatenate([digit, rest[near]]), rest[~near]
        digits.append((digit, side))
    if not digits:
        return [], 0
    others = sum(side > digits[0][1] / 2 and not cut[digit].any() for digit, side in digits[1:])
    return digits[0][0].tolist(), 1 + others


def _around(boxes: np.ndarray) -> np.ndarray:
    """The box around boxes [P, 4], at least one."""
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def drawn(runs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Runs [R, 3] -> the mask, bool [H, W]."""
    steps = np.zeros((shape[0], shape[1] + 1), np.int8)
    steps[runs[:, 0], runs[:, 1]] = 1
    steps[runs[:, 0], runs[:, 2]] = -1
    return steps.cumsum(axis=1)[:, :-1] > 0


# One digit -> an image of the dataset ---------------------------------------------------------------------------------


def finished(ink: np.ndarray, mask: np.ndarray, size: int, strokes: Strokes) -> np.ndarray:
    """Scale and center the ink of one digit as the dataset was, and broaden a thin pen -> uint8 [size, size].

    Args:
        ink: float32 [H, W], 0 to 1.
        mask: bool [H, W], where the digit is.
    """
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    ends = np.array([[columns[0], columns[-1] + 1], [rows[0], rows[-1] + 1]])  # across and down
    longer, middle = np.ptp(ends, axis=1).max(), ends.mean(axis=1)
    around = (
        round(0.02 * longer) + 1
    )  # the edges of strokes are part of them, the paper's other marks are not
    near = slide(np.pad(mask, around), 2 * around + 1, np.maximum)
    photo = Image.fromarray((255 * np.where(near, ink, 0)).round().astype(np.uint8))
    side = 2 * size + strokes.side  # of a canvas with room on all sides, in pixels of the dataset
    reach = side * longer / strokes.side / 2  # the same from its middle, in pixels of the photo
    fine = np.asarray(_cut_out(photo, middle - reach, 2 * reach, FINE * side))
    fine = spread(fine, (FINE * strokes.pen - pen_width(fine)) / 2)
    place = np.full(2, len(fine) / 2)
    if strokes.center == "mass":
        mass = fine / fine.sum()
        place = np.array([(mass.sum(axis) * (np.arange(len(fine)) + 0.5)).sum() for axis in (0, 1)])
    start = place - FINE * _middle(size, strokes)
    return np.asarray(_cut_out(Image.fromarray(fine), start, FINE * size, size))


def _cut_out(image: Image.Image, start: np.ndarray, length: float, size: int) -> Image.Image:
    """The square of that length from that place (x, y), black outside of the image, averaged to size x size pixels."""
    x, y = np.floor(start).astype(int).tolist()
    image = image.crop((x, y, x + int(length) + 2, y + int(length) + 2))
    left, top = (start - (x, y)).tolist()
    return image.resize(
        (size, size), Image.Resampling.BOX, box=(left, top, left + length, top + length)
    )


def pen_width(ink: np.ndarray) -> float:
    """Average width of the strokes of uint8 [H, W], in pixels: twice their area over the length of their outline."""
    ink = ink.astype(np.float32)
    down, right = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    return 2 * float(ink.sum() / np.hypot(down, right).sum())


def spread(x: np.ndarray, radius: float) -> np.ndarray:
    """Dilation by a disk: every pixel gets the largest value within `radius` pixels; below half a pixel, its own."""
    if radius < 0.5:
        return x
    reach = int(radius)
    padded, (height, width) = np.pad(x, reach), x.shape
    rows = []
    for dy in range(-reach, reach + 1):
        half = int((radius**2 - dy**2) ** 0.5)
        row = padded[reach + dy : reach + dy + height, reach - half : reach + half + width]
        rows.append(slide(row, 2 * half + 1, np.maximum, axes=(1,)))
    return np.maximum.reduce(rows)

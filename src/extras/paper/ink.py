"""Where the ink is in a photo, whatever its light: the channel that shows it, dark on light or not, how much of it."""

import numpy as np
from PIL import Image, ImageFilter

WINDOW = 1 / 3  # of the shorter side of a photo: strokes are narrower, what casts a shadow is wider
LEAST = 0.06  # the contrast to the paper, as a part of its brightness, below which nothing is ink
LOGARITHM = (255 * np.log(np.arange(256) / 16 + 1) / np.log(255 / 16 + 1)).astype(np.uint8)


def telling_channel(photo: Image.Image) -> np.ndarray:
    """uint8 [H, W]: gray, but for a colored pen on paper that is as bright; there, red, green or blue."""
    gray = photo.convert("L")
    if photo.mode == "RGB":
        contrast = [strength(_small(channel)) for channel in (gray, *photo.split())]
        if max(contrast) > 1.5 * contrast[0]:
            gray = photo.getchannel(int(np.argmax(contrast)) - 1)
    return np.asarray(gray)


def strength(gray: np.ndarray) -> float:
    """How strong the strokes of a photo are, be they dark or light, in steps of brightness."""
    return max(peak(closing(x, window(x)) - x) for x in (gray, 255 - gray))


def is_dark_on_light(gray: np.ndarray) -> bool:
    """Whether the dark details of a photo, rather than the light ones, are the strokes.

    Strokes reach around their holes and bays, and have an edge all around, where a bay is open to the paper that it is
    a part of. The logarithm makes a stroke in the shadow as strong as one in the light.
    """
    photo = LOGARITHM[_small(Image.fromarray(gray))]
    half = strength(photo) / 2
    around = np.pad(photo, 2, mode="edge")
    steps = slide(around, 5, np.maximum) - slide(around, 5, np.minimum) > half
    scores = [0.0, 0.0]
    for part in (
        1 / 3,
        1 / 5,
        1 / 8,
    ):  # of the shorter side: thin strokes have no bays yet, broad ones show only later
        for polarity, x in enumerate((photo, 255 - photo)):
            mask = closing(x, max(3, round(part * min(x.shape)))) - x > half
            scores[polarity] += _reach(mask) * _edged(mask, steps) ** 5
    return scores[0] >= scores[1]


def _small(photo: Image.Image) -> np.ndarray:
    photo = photo.copy()
    photo.thumbnail((240, 240), Image.Resampling.BOX)
    return np.asarray(photo.filter(ImageFilter.GaussianBlur(0.7)))


def _reach(mask: np.ndarray) -> float:
    """Pixels over which a mask extends, in height and width together; a few stray ones do not count."""
    places = np.nonzero(mask)
    return sum(np.subtract(*np.percentile(p, (97, 3))) for p in places) if len(places[0]) else 0.0


def _edged(mask: np.ndarray, steps: np.ndarray) -> float:
    """The part of the boundary of a mask that lies on steps of brightness."""
    m = np.pad(mask, 1)
    boundary = mask & ~(m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:])
    return float(steps[boundary].mean()) if boundary.any() else 0.0


def find_ink(gray: np.ndarray) -> np.ndarray:
    """Dark strokes on light, uint8 [H, W] -> float32 [H, W] from 0, paper, to 1, ink; all 0 if nothing stands out.

    Paper is what remains when dark details are filled from around them; its light falls on the ink as well, so that
    it is the quotient of the two that tells how much ink there is.
    """
    smooth = np.asarray(Image.fromarray(gray).filter(ImageFilter.GaussianBlur(1)))
    paper = closing(smooth, window(smooth))
    contrast = 1 - smooth / np.maximum(paper, 1).astype(np.float32)
    contrast -= np.median(contrast)
    noise = 1.4826 * np.median(np.abs(contrast))
    if (level := peak(contrast)) < max(LEAST, 5 * noise):
        return np.zeros_like(contrast)
    return (contrast / level).clip(0, 1)


def window(gray: np.ndarray) -> int:
    return max(3, round(min(gray.shape) * WINDOW))


def peak(contrast: np.ndarray) -> float:
    """What the strongest of 2,000 pixels reach: the strokes of a small digit are few."""
    values = contrast.ravel()
    count = max(1, len(values) // 2000)
    return float(np.partition(values, -count)[-count])


def closing(x: np.ndarray, k: int) -> np.ndarray:
    """Fill dark details narrower than k pixels with the brightness around them: grayscale closing by a square."""
    return slide(slide(np.pad(x, k - 1, mode="edge"), k, np.maximum), k, np.minimum)


def slide(x: np.ndarray, k: int, function: np.ufunc, axes: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Maximum or minimum of every window of k pixels along the axes: [H, W] -> [H - k + 1, W - k + 1]."""
    for axis in axes:
        x, width = np.moveaxis(x, axis, 0), 1
        while 2 * width <= k:
            x, width = function(x[:-width], x[width:]), 2 * width
        if k > width:
            x = function(x[: width - k], x[k - width :])
        x = np.moveaxis(x, 0, axis)
    return x

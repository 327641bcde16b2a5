"""Find ink in photos: choose a color channel, detect the polarity, and estimate the amount."""

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from src.extras.paper.components import find_components

# Maximum stroke width, as a fraction of the shorter side of the photo. Shadows are wider.
WINDOW = 1 / 3
# Window sizes for comparing dark and light details. A large window detects thick strokes. A small
# one does not mistake the background between thin strokes for a stroke.
POLARITY_WINDOWS = (1 / 3, 1 / 5, 1 / 8)
MIN_CONTRAST = 0.06  # minimum contrast of ink, as a fraction of the paper brightness
# Minimum contrast relative to the strongest strokes. Thin frames have less contrast than digits.
POLARITY_CONTRAST = 0.4
POLARITY_SIZE = 240  # longer side of photos, in pixels, when contrasts are compared
LOG_TABLE = (255 * np.log(np.arange(256) / 16 + 1) / np.log(255 / 16 + 1)).astype(np.uint8)


def ink_channel(photo: Image.Image) -> np.ndarray:
    """Return the gray values of a photo, or one of its color channels, uint8 [H, W].

    Ink that is as bright as the paper is visible only in a color channel.
    """
    gray = photo.convert("L")
    if photo.mode == "RGB":
        channels = (gray, *photo.split())
        contrast = [stroke_contrast(_reduce(channel)) for channel in channels]
        if max(contrast) > 1.5 * contrast[0]:
            gray = channels[int(np.argmax(contrast))]
    return np.asarray(gray)


def stroke_contrast(gray: np.ndarray) -> float:
    """Return the contrast of the strongest strokes, dark or light, in gray levels."""
    return max(peak(fill_dark(x, WINDOW) - x) for x in (gray, 255 - gray))


def is_dark_on_light(gray: np.ndarray) -> bool:
    """Return whether the strokes of a photo, uint8 [H, W], are dark on light.

    A stroke is larger than the background that it encloses, and it has edges on all sides, whereas
    partly enclosed background is open to the paper. The logarithm equalizes the contrast of strokes
    in shadow and in light. The square root keeps a single window from dominating, because a
    whole sheet of paper can look like a detail in one of them.
    """
    photo = LOG_TABLE[_reduce(Image.fromarray(gray))]
    least = POLARITY_CONTRAST * stroke_contrast(photo)
    edges = ndimage.morphological_gradient(photo, size=5, mode="nearest") > least
    dark = light = 0.0
    for window in POLARITY_WINDOWS:
        dark += _stroke_score(photo, window, least, edges) ** 0.5
        light += _stroke_score(255 - photo, window, least, edges) ** 0.5
    return dark >= light


def _stroke_score(photo: np.ndarray, window: float, least: float, edges: np.ndarray) -> float:
    """Score how closely dark details narrower than `window` resemble strokes.

    The score is the height plus the width of the largest detail, multiplied by a power of the
    fraction of all boundaries that lie on edges in the photo.
    """
    mask = fill_dark(photo, window) - photo > least
    if not mask.any():
        return 0.0
    boxes = find_components(mask)[1]
    extent = (boxes[:, 2:] - boxes[:, :2]).sum(axis=1).max()
    boundary = mask & ~ndimage.binary_erosion(mask)
    return float(extent * edges[boundary].mean() ** 5)


def _reduce(photo: Image.Image) -> np.ndarray:
    photo = photo.copy()
    photo.thumbnail((POLARITY_SIZE, POLARITY_SIZE), Image.Resampling.BOX)
    return np.asarray(photo.filter(ImageFilter.GaussianBlur(0.7)))


def find_ink(gray: np.ndarray) -> np.ndarray:
    """Return the amount of ink in dark strokes on light paper.

    The paper brightness is estimated by filling dark details from their surroundings. Paper and ink
    receive the same light, so the ratio of their brightness depends only on the ink.

    Args:
        gray: uint8 [H, W].

    Returns:
        float32 [H, W] from 0 (paper) to 1 (ink); all 0 if nothing stands out from the paper.
    """
    blurred = Image.fromarray(gray).filter(ImageFilter.GaussianBlur(1))
    smooth = np.maximum(np.asarray(blurred), 1)
    contrast = 1 - smooth / fill_dark(smooth, WINDOW).astype(np.float32)
    is_paper = contrast <= peak(contrast) / 2  # a thick marker can cover most of the photo
    contrast -= np.median(contrast[is_paper])
    level = peak(contrast)
    if level < max(MIN_CONTRAST, 5 * _noise(contrast)):
        return np.zeros_like(contrast)
    return (contrast / level).clip(0, 1)


def _noise(contrast: np.ndarray) -> float:
    """Estimate the standard deviation of the noise from differences between distant pixels.

    Adjacent pixels are correlated by blur. The median is robust to the amount of ink.
    """
    distance = max(1, contrast.shape[1] // 20)
    differences = np.abs(contrast[:, distance:] - contrast[:, :-distance])
    return 1.4826 / 2**0.5 * float(np.median(differences)) if differences.size else 0.0


def fill_dark(gray: np.ndarray, window: float) -> np.ndarray:
    """Fill dark details with the surrounding brightness, by a morphological closing, [H, W].

    Args:
        gray: uint8 [H, W].
        window: maximum width of the details, as a fraction of the shorter side of the photo.
    """
    size = max(3, round(window * min(gray.shape)))
    padded = np.pad(gray, size, mode="edge")
    closed = ndimage.grey_closing(padded, size, mode="nearest")
    return closed[size:-size, size:-size]


def peak(contrast: np.ndarray) -> float:
    """Return the 99.95th percentile; a lower one could miss a small digit."""
    values = contrast.ravel()
    count = max(1, len(values) // 2000)
    return float(np.partition(values, -count)[-count])

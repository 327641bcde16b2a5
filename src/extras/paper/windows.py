"""Morphology in NumPy: sliding extrema, closing with a square, and dilation with a disk."""

import numpy as np


def sliding(
    x: np.ndarray, k: int, function: np.ufunc, axes: tuple[int, ...] = (0, 1)
) -> np.ndarray:
    """Return the maximum or minimum of every window of `k` pixels along `axes`.

    The window length doubles in each step, so the cost is logarithmic in k.

    Args:
        x: image [H, W].
        k: window length; each axis in `axes` shrinks by k - 1.
        function: np.maximum or np.minimum.
        axes: axes to slide along.
    """
    for axis in axes:
        x = np.moveaxis(x, axis, 0)
        width = 1
        while 2 * width <= k:
            x = function(x[:-width], x[width:])
            width *= 2
        if k > width:
            x = function(x[: width - k], x[k - width :])
        x = np.moveaxis(x, 0, axis)
    return x


def closing(x: np.ndarray, k: int) -> np.ndarray:
    """Fill dark details narrower than `k` pixels with the surrounding brightness, [H, W]."""
    padded = np.pad(x, k - 1, mode="edge")
    return sliding(sliding(padded, k, np.maximum), k, np.minimum)


def dilate(x: np.ndarray, radius: float) -> np.ndarray:
    """Replace every pixel of an image [H, W] with the maximum within `radius` pixels of it."""
    reach = int(radius)
    if reach <= 0:
        return x
    padded = np.pad(x, reach)
    height, width = x.shape
    rows = []
    for dy in range(-reach, reach + 1):
        half = int((radius**2 - dy**2) ** 0.5)
        top = reach + dy
        left = reach - half
        row = padded[top : top + height, left : left + width + 2 * half]
        rows.append(sliding(row, 2 * half + 1, np.maximum, axes=(1,)))
    return np.maximum.reduce(rows)

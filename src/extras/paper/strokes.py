"""Scale and position of the strokes in handwritten-digit datasets (light strokes on black)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from src.config import DatasetInfo


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """Scale and position of the strokes in dataset images.

    Args:
        side: longer side of the bounding box of the strokes, in pixels.
        center: method for centering the strokes: by center of mass or by bounding box.
        pen: first quartile of the stroke width in the training images, in pixels. Thinner strokes
            in a photo are thickened to this width.
    """

    side: int
    center: Literal["mass", "box"]
    pen: float


DATASETS = {
    "DigitsDataModule": Strokes(side=8, center="box", pen=1.4),
    "MNISTDataModule": Strokes(side=20, center="mass", pen=2.0),
}


def strokes_of(dataset: DatasetInfo) -> Strokes | None:
    """Return the strokes of a dataset, or None if its images are not light strokes on black."""
    strokes = DATASETS.get(dataset.module or "")
    if strokes is None or dataset.channels != 1 or strokes.side > dataset.image_size:
        return None
    return strokes


def center_of_mass(image: np.ndarray) -> np.ndarray:
    """Return the center of mass (x, y) of an image [H, W], in pixels from the top left."""
    height, width = image.shape
    mass = image / max(1, image.sum())
    columns = np.arange(width) + 0.5
    rows = np.arange(height) + 0.5
    x = (mass.sum(axis=0) * columns).sum()
    y = (mass.sum(axis=1) * rows).sum()
    return np.array([x, y])


def stroke_center(size: int, strokes: Strokes) -> float:
    """Return the center of the strokes, in pixels from the left and from the top.

    For MNIST, it is 14.5 (the middle of pixel 14), although the center of the image is 14.0.
    """
    return (size + 1) / 2 if strokes.center == "mass" else size / 2

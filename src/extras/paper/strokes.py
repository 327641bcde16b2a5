"""Scale and position of the strokes in handwritten-digit datasets (light strokes on black)."""

from dataclasses import dataclass
from typing import Literal

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

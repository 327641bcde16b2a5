"""Helpers for tests of digit extraction from photos."""

from collections.abc import Callable

import numpy as np
import pytest
from photos import FOUR, ONE, SEVEN, ZERO
from PIL import Image

from src.extras.paper.photo import ExtractedDigit, Invert, extract_digit
from src.extras.paper.strokes import DATASETS

MNIST_STROKES = DATASETS["MNISTDataModule"]

each_digit: Callable = pytest.mark.parametrize(
    "strokes",
    [ZERO, ONE, FOUR, SEVEN],
    ids=["zero", "one", "four", "seven"],
)


def extract(photo: Image.Image, invert: Invert = "auto") -> ExtractedDigit:
    """Extract a digit from a photo and convert it to MNIST format."""
    return extract_digit(photo, 28, MNIST_STROKES, invert)


def image_of(photo: Image.Image, invert: Invert = "auto") -> np.ndarray:
    return extract(photo, invert).image


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation coefficient of two images, which is independent of contrast."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def assert_same_digit(marked: Image.Image, clean: Image.Image) -> None:
    found = extract(marked)
    expected = extract(clean)
    assert found.digits == 1
    assert found.box == pytest.approx(expected.box, abs=0.01)
    assert correlation(found.image, expected.image) > 0.97

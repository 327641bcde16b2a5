"""Read image files, including photos of paper, for networks trained on light strokes on black."""

from collections.abc import Callable

import torch

from src.config import DatasetInfo
from src.data.images import read_photo
from src.errors import InputError
from src.extras.paper.photo import Invert, extract_digit
from src.extras.paper.strokes import strokes_of
from src.inference.predictor import PreparedImage

MAX_SIDE = 640  # photos whose longer side is longer are reduced


def digit_reader(
    dataset: DatasetInfo, invert: Invert = "auto"
) -> Callable[[str], PreparedImage] | None:
    """Return a function that converts an image file to the format of the dataset.

    Args:
        dataset: dataset that the network was trained on.
        invert: whether the strokes are dark on light; "auto" detects the polarity.

    Returns:
        A function that maps a path to a `PreparedImage`, or None if the network was not trained on
        light strokes on black. The function raises InputError with the path if the file cannot be
        read or has no strokes.
    """
    strokes = strokes_of(dataset)
    if strokes is None:
        return None

    def read(path: str) -> PreparedImage:
        photo = read_photo(path, MAX_SIDE, keep_alpha=True)
        try:
            digit = extract_digit(photo, dataset.image_size, strokes, invert)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        notes = []
        if digit.digits > 1:
            notes.append(
                f"found {digit.digits} digits and read the largest; photograph them one by one"
            )
        image = torch.from_numpy(digit.image.copy())[None]
        return PreparedImage(image, notes, digit.box)

    return read

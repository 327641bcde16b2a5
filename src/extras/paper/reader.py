"""Read image files for networks trained on light strokes on black, photos of paper included."""

from collections.abc import Callable

import torch

from src.config import DatasetInfo
from src.data.images import read_photo
from src.errors import InputError
from src.extras.paper.photo import MAX_SIDE, Invert, extract_digit
from src.extras.paper.strokes import strokes_of
from src.inference.predictor import PreparedImage


def digit_reader(
    dataset: DatasetInfo, invert: Invert = "auto"
) -> Callable[[str], PreparedImage] | None:
    """Return a function that reads an image file as an image of the dataset.

    Args:
        dataset: the network's dataset.
        invert: whether the strokes are dark on light; "auto" finds out.

    Returns:
        None if the network was not trained on light strokes on black. Else a function from a path
        to a `PreparedImage`. It raises InputError naming the file if that cannot be read or has no
        strokes.
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

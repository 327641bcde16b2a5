"""Test how image files are read for networks trained on digits."""

from dataclasses import replace

import pytest
import torch
from photos import FOUR, SEVEN, write_on, written
from PIL import Image

from src.config import DatasetInfo
from src.errors import InputError
from src.extras.paper.reader import digit_reader

DATASET = DatasetInfo(
    classes=tuple("0123456789"), image_size=28, channels=1, module="MNISTDataModule"
)


@pytest.fixture
def read(tmp_path):
    """Return a function that saves an image to a file and reads it with the digit reader."""
    reader = digit_reader(DATASET)

    def save_and_read(picture: Image.Image, **options):
        path = tmp_path / "picture.png"
        picture.save(path, **options)
        return reader(str(path))

    return save_and_read


@pytest.mark.parametrize(
    "change",
    [
        {"module": "FashionMNISTDataModule"},
        {"module": None},
        {"channels": 3},
        {"image_size": 16},
    ],
)
def test_other_datasets_have_no_digit_reader(change):
    dataset = replace(DATASET, mean=(), std=(), **change)
    assert digit_reader(dataset) is None


@pytest.mark.parametrize(
    "ink, paper",
    [
        (0, 255),
        (255, 0),
    ],
)
def test_transparent_paper_contrasts_with_the_strokes(read, ink, paper):
    color = (ink, ink, ink, 255)
    drawing = written(SEVEN, ink=color, paper=(ink, ink, ink, 0), mode="RGBA")
    transparent = read(drawing)
    opaque = read(written(SEVEN, ink=ink, paper=paper))
    assert torch.equal(transparent.image, opaque.image)
    assert transparent.box == opaque.box
    assert opaque.image.dtype == torch.uint8
    assert opaque.image.shape == (1, 28, 28)


def test_a_file_without_strokes_is_named(read):
    with pytest.raises(InputError, match="picture.png: no strokes were found"):
        read(Image.new("L", (300, 200), 200))


def test_a_photo_is_turned_upright(read):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate 90 degrees clockwise
    turned = read(written(SEVEN).rotate(90, expand=True), exif=exif)
    upright = read(written(SEVEN))
    assert torch.equal(turned.image, upright.image)
    assert turned.box == pytest.approx(upright.box)


def test_a_note_reports_several_digits(read):
    photo = Image.new("L", (700, 300), 220)
    write_on(photo, SEVEN, 16, 40, middle=0.25)
    write_on(photo, FOUR, 16, 40, middle=0.75, side=0.9)
    assert read(photo).notes == ["found 2 digits and read the largest; photograph them one by one"]
    assert read(written(SEVEN)).notes == []

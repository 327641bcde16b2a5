"""Image files read for networks of digits."""

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
    """Return a function that saves a picture and reads the file."""
    reader = digit_reader(DATASET)

    def save_and_read(picture: Image.Image, **options):
        path = tmp_path / "picture.png"
        picture.save(path, **options)
        return reader(str(path))

    return save_and_read


@pytest.mark.parametrize(
    "change", [{"module": "FashionMNISTDataModule"}, {"module": None}, {"channels": 3}]
)
def test_other_datasets_have_no_digit_reader(change):
    assert digit_reader(replace(DATASET, mean=(), std=(), **change)) is None
    assert digit_reader(replace(DATASET, image_size=16)) is None


def test_transparent_paper_is_white(read):
    drawing = written(SEVEN, ink=(0, 0, 0, 255), paper=(0, 0, 0, 0), mode="RGBA")
    transparent = read(drawing)
    white = read(written(SEVEN, ink=0, paper=255))
    assert torch.equal(transparent.image, white.image) and transparent.box == white.box
    assert white.image.dtype == torch.uint8 and white.image.shape == (1, 28, 28)


def test_a_file_without_strokes_is_named(read):
    with pytest.raises(InputError, match="picture.png: no strokes were found"):
        read(Image.new("L", (300, 200), 200))


def test_a_photo_is_turned_upright(read):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, clockwise
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

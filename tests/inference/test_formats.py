"""Test that predictions for 20 digits are the same in every lossless image format."""

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from src.data.datasets import read_digits
from src.extras.paper.reader import digit_reader
from src.inference.predictor import Predictor

COUNT = 20


def deep(scale, dtype=np.uint16, **tags):
    """Return a function that multiplies pixels by `scale` and saves a TIFF file with the tags."""

    def save(pixels, path):
        info = TiffImagePlugin.ImageFileDirectory_v2()
        for tag, value in tags.items():
            info[int(tag.removeprefix("tag"))] = value
        values = (pixels.astype(np.float64) * scale).round(6).astype(dtype)
        if tags.get("tag262") == 0:
            values = 65_535 - values
        Image.fromarray(values).save(path, tiffinfo=info)

    return save


def plain(mode="L", **options):
    return lambda pixels, path: Image.fromarray(pixels).convert(mode).save(path, **options)


FORMATS = {
    "color.png": plain("RGB"),
    "palette.png": plain("P"),
    "16-bit.png": lambda pixels, path: Image.fromarray(pixels.astype(np.uint16) * 257).save(path),
    "lossless.webp": plain("RGB", lossless=True),
    "image.gif": plain(),
    "image.bmp": plain(),
    "image.pgm": plain(),
    "8-bit.tif": plain(),
    "16-bit.tif": deep(257),
    "12-bit.tif": deep(4095 / 255, tag281=4095),
    "white-is-zero.tif": deep(257, tag262=0),
    "float.tif": deep(1 / 255, np.float32),
    "float-to-255.tif": deep(1, np.float32),
}


@pytest.fixture(scope="module")
def classes(digits_run):
    """Return a function that saves the digits in a format and returns the predicted classes."""
    predictor = Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")
    read = digit_reader(predictor.dataset)
    digits = read_digits("test")[0][:COUNT, 0].numpy()
    enlarged = [np.asarray(Image.fromarray(digit).resize((96, 96), 3)) for digit in digits]

    def classify(folder, name, save):
        images = []
        for number, pixels in enumerate(enlarged):
            path = folder / f"{number} {name}"
            save(pixels, path)
            images.append(read(str(path)).image)
        return predictor.probabilities(torch.stack(images)).argmax(dim=1).tolist()

    return classify


@pytest.mark.parametrize("name", FORMATS)
def test_same_class_as_a_plain_png(classes, tmp_path, name):
    expected = classes(tmp_path, "plain.png", plain())
    assert len(set(expected)) > 3, "the network predicts too few classes for a useful test"
    actual = classes(tmp_path, name, FORMATS[name])
    assert actual == expected

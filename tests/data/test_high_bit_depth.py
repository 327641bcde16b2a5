"""Test that high-bit-depth images are scaled by their declared range."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from src.data.images import read_image
from src.errors import InputError

RAMP = np.linspace(0, 255, 16 * 16).round().reshape(16, 16)  # expected pixels


def gray(path) -> np.ndarray:
    return read_image(path, 16, 1)[0].numpy()


def save_tiff(path, values, **tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag.removeprefix("tag"))] = value
    Image.fromarray(values).save(path, tiffinfo=info)
    return path


def add_chunk(path, kind: bytes, data: bytes):
    """Insert a chunk after the header of a PNG file."""
    png = path.read_bytes()
    body = kind + data
    chunk = struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(png[:33] + chunk + png[33:])
    return path


@pytest.mark.parametrize("value", [200, 255, 256, 300, 30_000, 65_535])
def test_a_constant_16_bit_image(tmp_path, value):
    path = tmp_path / "constant.png"
    Image.fromarray(np.full((16, 16), value, np.uint16)).save(path)
    assert set(gray(path).flat) == {round(value / 257)}


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_declared_bits_of_a_png(tmp_path, bits):
    path = tmp_path / "image.png"
    Image.fromarray((RAMP / 255 * (2**bits - 1)).astype(np.uint16)).save(path)
    add_chunk(path, b"sBIT", bytes([bits]))
    assert abs(gray(path) - RAMP).max() <= 1


def test_bits_that_are_scaled_to_the_whole_range(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray((RAMP * 257).astype(np.uint16)).save(path)
    add_chunk(path, b"sBIT", bytes([12]))
    assert abs(gray(path) - RAMP).max() <= 1


def test_declared_maximum_of_a_tiff(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    path = save_tiff(tmp_path / "image.tif", values, tag281=4095)
    assert abs(gray(path) - RAMP).max() <= 1


def test_white_is_zero(tmp_path):
    path = save_tiff(tmp_path / "image.tif", (65_535 - RAMP * 257).astype(np.uint16), tag262=0)
    assert abs(gray(path) - RAMP).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floating_point(tmp_path, top):
    path = save_tiff(tmp_path / "image.tif", (RAMP / 255 * top).astype(np.float32))
    assert abs(gray(path) - RAMP).max() <= 1


def test_an_overshoot_is_clipped(tmp_path):
    values = (RAMP / 255).astype(np.float32)
    values[0, 0], values[-1, -1] = -0.02, 1.02
    assert abs(gray(save_tiff(tmp_path / "image.tif", values)) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (RAMP.astype(np.float32) * 257, "floating-point values from 0 to 65535"),
        ((RAMP / 127.5 - 1).astype(np.float32), "floating-point values from -1 to 1"),
        (RAMP.astype(np.int32), "32-bit integers without a declared maximum"),
        (RAMP.astype(np.uint32), "32-bit integers without a declared maximum"),
    ],
)
def test_an_unknown_range_is_refused(tmp_path, values, reason):
    path = save_tiff(tmp_path / "image.tif", values)
    with pytest.raises(InputError, match=f"^{path}: has {reason}"):
        gray(path)


def test_a_transparent_value(tmp_path):
    values = (RAMP * 257).astype(np.uint16)
    path = tmp_path / "image.png"
    Image.fromarray(values).save(path)
    add_chunk(path, b"tRNS", struct.pack(">H", int(values[5, 5])))
    expected = RAMP.copy()
    expected[5, 5] = 255  # transparent pixels become white
    assert abs(gray(path) - expected).max() <= 1


def test_a_hidden_first_frame_is_not_read(tmp_path):
    path = tmp_path / "animated.png"
    hidden, shown = (Image.new("L", (16, 16), value) for value in (10, 200))
    hidden.save(path, save_all=True, append_images=[shown, shown], default_image=True)
    assert isinstance(Image.open(path), PngImagePlugin.PngImageFile)
    assert set(gray(path).flat) == {200}

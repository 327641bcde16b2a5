"""Test image decoding: orientation, bit depth, transparency, color, animations and image size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.images import EXTENSIONS, describe_cropping, read_image, read_photo

# A bright spot at the top left and color gradients reveal rotations and flips.
Y, X = np.mgrid[0:30, 0:40]
RED = (250 * np.exp(-((X - 12) ** 2 + (Y - 8) ** 2) / 120)).astype(np.uint8)
GREEN = (6 * X).astype(np.uint8)
BLUE = (8 * Y).astype(np.uint8)
PHOTO = Image.fromarray(np.stack([RED, GREEN, BLUE], axis=2))
# EXIF orientation -> transformation of the stored image.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS = {
    "webp": {"lossless": True},
    "jpg": {"quality": 100, "subsampling": 0},
}


def read(path, size=20, channels=3):
    return read_image(path, size, channels).int()


def assert_close(a, b, tolerance):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance


def assert_similar(a, b):
    assert (a - b).abs().float().mean() < 8


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.png"


@pytest.fixture
def upright(path):
    PHOTO.save(path)
    return read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_a_turned_photo_is_turned_upright(tmp_path, upright, orientation, extension):
    path = tmp_path / f"turned.{extension}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = PHOTO.transpose(TURNS[orientation]) if orientation > 1 else PHOTO
    stored.save(path, exif=exif, **LOSSLESS.get(extension, {}))
    tolerance = 6 if extension == "jpg" else 1
    assert_close(read(path), upright, tolerance)
    assert read_photo(path, 40).size == PHOTO.size


HIGH_BIT_DEPTH = {
    "png": RED.astype(np.uint16) * 257,
    "tif": RED.astype(np.uint16) * 257,
    "ppm": RED.astype(np.uint16) * 257,
    "255.tif": RED.astype(np.float32),
    "1.tif": RED.astype(np.float32) / 255,
}


@pytest.mark.parametrize("extension", HIGH_BIT_DEPTH)
def test_images_of_high_bit_depth_are_scaled_to_8_bits(tmp_path, path, extension):
    values = HIGH_BIT_DEPTH[extension].copy()
    if values.dtype == np.float32:
        values[0, :3] = [np.nan, np.inf, -np.inf]
    original = tmp_path / f"original.{extension}"
    Image.fromarray(values).save(original)
    Image.fromarray(RED).save(path)
    assert_close(read(original), read(path), 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(path, mode):
    image = PHOTO.convert("RGBA")
    image.paste((9, 9, 9, 0), (0, 0, 40, 10))  # dark, but fully transparent
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    image.save(path)
    for channels in (1, 3):
        pixels = read(path, channels=channels)
        assert (pixels[:, :5] >= 250).all()
        assert (pixels[:, 10:] < 250).any()
    assert read_photo(path, 40).mode == "RGB"
    photo = read_photo(path, 40, keep_alpha=True)
    assert photo.mode == "RGBA"
    assert photo.getpixel((5, 5))[3] == 0


@pytest.mark.parametrize(
    "name",
    [
        "CMYK.jpg",
        "CMYK.tif",
        "YCbCr.jpg",
        "P.gif",
        "P.png",
        "P.bmp",
    ],
)
def test_colors_of_every_mode(tmp_path, upright, name):
    path = tmp_path / name
    image = PHOTO.quantize(256) if path.stem == "P" else PHOTO.convert(path.stem)
    image.save(path, quality=100)
    assert_similar(read(path), upright)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_extension_is_read(tmp_path, upright, extension):
    path = tmp_path / f"x{extension}"
    kind = {".jpe": "JPEG", ".jfif": "JPEG", ".apng": "PNG", ".pnm": "PPM"}.get(extension)
    PHOTO.convert("L" if extension == ".pgm" else "RGB").save(path, kind)
    assert read(path).shape == upright.shape


def test_black_and_white(path):
    Image.fromarray(RED > 100).save(path)
    assert read(path, 30, 1).unique().tolist() == [0, 255]


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, upright, extension):
    path = tmp_path / f"animation.{extension}"
    frame = Image.new("RGB", PHOTO.size, "green")
    PHOTO.save(path, save_all=True, append_images=[frame])
    assert_similar(read(path), upright)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (20000, 10),
        (10, 20000),
        (20, 20),
        (21, 20),
    ],
)
def test_every_size_is_resized(path, size, fit):
    Image.new("RGB", size, "white").save(path)
    for channels in (1, 3):
        pixels = read_image(path, 20, channels, fit)
        assert pixels.shape == (channels, 20, 20)
        assert (pixels == 255).all()


def test_a_large_photo_looks_like_its_small_copy(tmp_path, upright):
    """Large JPEGs are decoded at a reduced size, which must not change the result."""
    path = tmp_path / "large.jpg"
    PHOTO.resize((4000, 3000)).save(path, quality=95)
    assert_similar(read(path), upright)


def test_an_image_is_cropped_to_its_center_square(path):
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    image.save(path)
    red, green, blue = read(path, 10)[:, :, 1:-1]
    assert red.max() == green.max() == 0
    assert blue.min() == 255


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_wide_and_tall_images_can_be_kept_whole(path, orientation, channels):
    """Paint the ends of a 3:1 image; a third of its padded square is image, the rest its edges."""
    image = Image.new("RGB", (300, 100), "gray")
    image.paste("black", (0, 0, 50, 100))
    image.paste("white", (250, 0, 300, 100))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)

    def rows(fit):
        pixels = read_image(path, 12, channels, fit)
        assert pixels.shape == (channels, 12, 12)
        return pixels[0].float() if orientation == 1 else pixels[0].T.float()

    assert (rows("crop") == 128).all()
    for fit in ("stretch", "pad"):
        assert (rows(fit)[4:8, 0] == 0).all()
        assert (rows(fit)[4:8, 11] == 255).all()
    assert (rows("stretch")[[0, 11], 0] == 0).all()


def test_padding_keeps_proportions(path):
    image = Image.new("L", (300, 100), 200)
    image.paste(0, (130, 30, 170, 70))  # a square in the center
    image.save(path)
    dark = read_image(path, 30, 1, "pad")[0] < 100
    assert dark.any(0).sum() == dark.any(1).sum() == 4
    dark = read_image(path, 30, 1, "stretch")[0] < 100
    assert (dark.any(0).sum(), dark.any(1).sum()) == (4, 12)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_square_images_do_not_depend_on_the_fit(path, fit):
    PHOTO.resize((30, 30)).save(path)
    assert read_image(path, 20, 3, fit).equal(read_image(path, 20, 3))


def test_a_note_says_how_much_cropping_removes(tmp_path):
    wide, photo, damaged = paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    Image.new("L", (100, 400)).save(wide)
    Image.new("L", (40, 30)).save(photo)
    Path(damaged).write_text("damaged")
    assert "cuts off 50% of an average image" in describe_cropping(paths)
    assert "cuts off 75% of an average image" in describe_cropping([wide] * 1000)
    assert describe_cropping([photo, damaged]) == describe_cropping([]) == ""


def test_a_sheet_of_paper_scanned_at_600_dpi_is_read(path):
    Image.new("L", (4960, 7016), 200).save(path)
    assert (read(path) == 200).all()


def test_decoders_are_loaded_on_first_use_by_many_threads(tmp_path):
    """Test a workaround for the initialization of Pillow's decoders, which is not thread-safe."""
    for extension in ("png", "webp", "tif", "gif"):
        for number in range(4):
            PHOTO.save(tmp_path / f"{number}.{extension}")
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from src.data.images import read_image
assert "PIL.PngImagePlugin" not in sys.modules
with ThreadPoolExecutor(16) as pool:
    images = list(pool.map(lambda path: read_image(path, 8, 3), Path(sys.argv[1]).iterdir()))
assert len(images) == 16
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)

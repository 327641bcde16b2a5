"""Test the contact sheets of --show and --attention: layout, content and output paths."""

import numpy as np
import pytest
import torch
from photos import SEVEN, written
from PIL import Image, ImageFont
from program import call

import classify
from src.errors import InputError
from src.extras.paper.reader import digit_reader
from src.extras.report.contact_sheet import (
    _caption,
    check_path,
    draw_frame,
    fit,
    overlay_attention,
    shorten,
    write_attention,
    write_inputs,
    write_sheet,
)
from src.inference import batch
from src.inference.predictor import Predictor

BLACK, WHITE, ORANGE = (0, 0, 0), (255, 255, 255), (224, 130, 20)


@pytest.fixture(scope="module")
def predictor(digits_run):
    return Predictor(digits_run / "checkpoints" / "best.ckpt", "cpu")


@pytest.fixture
def run(digits_run):
    return lambda *args: call(classify.main, "--ckpt", digits_run, "--device", "cpu", *args)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "seven.png"
    written(SEVEN).save(path)
    return path


@pytest.fixture
def results(predictor, photo):
    """Return the results for two copies of the photo."""
    reader = digit_reader(predictor.dataset, "auto")
    return list(batch.classify(predictor, [str(photo)] * 2, 1, reader))


def write(path, *colors, total=1):
    """Write a contact sheet with one pair per color: a square image and a wide image."""
    squares = [Image.new("RGB", (8, 8), color) for color in colors]
    wide = [Image.new("RGB", (30, 10), color) for color in colors]
    captions = ["a caption"] * len(colors)
    pairs = list(zip(squares, wide, captions, strict=True))
    write_sheet(str(path), ("left", "right"), pairs, total)


def read(path):
    return np.asarray(Image.open(path))


def halves(pixels, row=0):
    """Return the left and right images of the first pair in the given row."""
    rows = pixels[32 + 256 * row :][:224]
    return rows[:, 12:236], rows[:, 248:472]


def enlarge(image):
    """Enlarge an image, uint8 [1, 8, 8], to [224, 224, 3] by repeating pixels."""
    return image[0].numpy().repeat(28, 0).repeat(28, 1)[..., None].repeat(3, 2)


# Layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "columns", "rows"),
    [
        (1, 1, 1),
        (4, 1, 4),
        (5, 2, 3),
        (18, 3, 6),
        (64, 4, 16),
    ],
)
def test_rows_of_one_to_four_pairs(tmp_path, count, columns, rows):
    write(tmp_path / "x.png", *[BLACK] * count)
    sheet = Image.open(tmp_path / "x.png")
    assert sheet.format == "PNG"
    assert sheet.size == (columns * 484, 32 + rows * 256)


def test_pairs_are_laid_out_in_rows_and_pictures_centered(tmp_path):
    colors = [(50 * n, 0, 255 - 50 * n) for n in range(5)]
    write(tmp_path / "x.png", *colors)
    pixels = read(tmp_path / "x.png")
    assert (pixels[6:26, 496:600] != WHITE).any()  # a column title
    for number, color in enumerate(colors):
        row, column = divmod(number, 2)
        left, right = halves(pixels[:, 484 * column :], row)
        assert (left == color).all()
        assert (right[75:149] == color).all()  # 30x10 is enlarged to 224x75
        assert (right[:74] == WHITE).all()
        assert (right[151:] == WHITE).all()
    assert (pixels[32 + 512 :, 484:] == WHITE).all()  # no sixth pair


def test_note_if_not_all_images_are_shown(tmp_path, capsys):
    path = tmp_path / "x.png"
    write(path, BLACK, total=64)
    assert capsys.readouterr().err == ""
    write(path, BLACK, BLACK, BLACK, total=1234)
    assert capsys.readouterr().err == f"note: {path} shows the first 3 of 1,234 images\n"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8, 8), (224, 224)),
        ((3000, 1500), (224, 112)),
        ((1, 500), (1, 224)),
    ],
)
def test_fit_resizes_the_longer_side(size, expected):
    assert fit(Image.new("RGB", size)).size == expected


def test_a_caption_says_that_the_answer_is_unsure():
    row = {"path": "x.png", "predictions": [{"class": "cat", "probability": 0.5}]}
    assert _caption(row) == "x.png: cat, 50.0%"
    assert _caption(row | {"answer": "unsure"}) == "x.png: unsure (cat, 50.0%)"


def test_a_long_caption_keeps_its_end():
    font = ImageFont.load_default(14)
    end = "last.png: 7, 99.9%"
    short = shorten("photo_" * 40 + end, font, 300)
    assert short.startswith("…")
    assert short.endswith(end)
    assert 280 < font.getlength(short) <= 300
    assert shorten("a\nb\x1b[31m.png", font, 300) == "a?b?[31m.png"


# Content ------------------------------------------------------------------------------------------


def test_frame_surrounds_the_box():
    photo = Image.new("L", (640, 480))  # resized to 224x168
    framed = draw_frame(photo, (0.25, 0.25, 0.5, 0.5))
    assert framed.getbbox() == (56 - 4, 42 - 4, 112 + 4, 84 + 4)
    inside = framed.crop((56, 42, 112, 84))
    assert inside.getbbox() is None  # only the frame is drawn


def test_attention_is_bright_over_a_gray_image():
    attention = torch.zeros(4, 4)
    attention[1, 2] = 1
    image = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    overlay = overlay_attention(image, attention)
    for center, color in (
        ((140, 84), (252, 255, 164)),
        ((28, 196), (0, 0, 4)),
    ):
        expected = [0.7 * channel + 0.3 * 200 for channel in color]
        assert overlay.getpixel(center) == pytest.approx(expected, abs=12)
    constant = overlay_attention(image, torch.ones(2, 2))
    assert constant.size == (224, 224)


def test_show_has_the_framed_photo_and_the_network_input(results, tmp_path):
    write_inputs(str(tmp_path / "x.png"), results, 2)
    left, right = halves(read(tmp_path / "x.png"))
    prepared = results[0][1]
    framed = np.asarray(draw_frame(written(SEVEN), prepared.box))
    assert (framed == ORANGE).all(-1).any()
    assert np.array_equal(left[7:217], framed)
    assert np.array_equal(right, enlarge(prepared.image))


def test_test_images_are_shown_without_a_file(results, tmp_path):
    row, prepared = results[0]
    row |= {"path": "digits test image 3", "target": "2"}
    write_inputs(str(tmp_path / "x.png"), [(row, prepared._replace(box=None))], 1)
    left, right = halves(read(tmp_path / "x.png"))
    assert np.array_equal(left, enlarge(prepared.image))
    assert np.array_equal(left, right)


def test_attention_has_the_network_input_and_its_overlay(predictor, results, tmp_path):
    write_attention(str(tmp_path / "x.png"), results, 2, predictor)
    pixels = read(tmp_path / "x.png")
    assert pixels.shape == (32 + 2 * 256, 484, 3)
    image = results[0][1].image
    attention = predictor.attention(image[None])[0]
    overlay = overlay_attention(image, attention)
    assert np.std(overlay) > 5
    for row in range(2):
        left, right = halves(pixels, row)
        assert np.array_equal(left, enlarge(image))
        assert np.array_equal(right, overlay)


# Paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x.jpg", "not a PNG file"),
        ("", "not a PNG file"),
        ("none/x.png", "its folder does not exist"),
        ("seven.png/x.png", "its folder does not exist"),
        ("long" * 99 + "/x.png", "its folder does not exist"),
        ("folder.png", "is a folder"),
        ("seven.png", "would overwrite an input image"),
        ("link.png", "would overwrite an input image"),
    ],
)
def test_refused_paths(tmp_path, photo, path, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(photo)
    with pytest.raises(InputError, match=f"--show .*: {message}"):
        check_path(str(tmp_path / path), "--show", ["nowhere.png", str(photo)])


@pytest.mark.parametrize("images", ["seven.png", "", "*.png"])
def test_an_image_to_classify_is_never_replaced(run, photo, tmp_path, images):
    before = photo.read_bytes()
    for flag in ("--show", "--attention"):
        error = run(tmp_path / images, flag, photo).error
        assert f"{flag} {photo}: would overwrite an input image" in error
    assert photo.read_bytes() == before


def test_both_pictures_need_different_files(run, photo, tmp_path):
    a = tmp_path / "a.png"
    b = tmp_path / "b.png"
    assert "--attention" in run(photo, "--show", a, "--attention", a).error
    assert not a.exists()
    assert run(photo, "--show", a, "--attention", b).code == 0
    (_, shown), (attended, _) = halves(read(a)), halves(read(b))
    assert np.array_equal(shown, attended)  # both contain the network input


def test_unreadable_files_are_left_out(run, photo, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    sheet = tmp_path.parent / "sheet.png"
    assert run(tmp_path, "--show", sheet, "--csv").code == 1
    before = sheet.read_bytes()
    assert Image.open(sheet).size == (484, 288)
    ended = run(tmp_path / "broken.png", "nowhere.png", "--show", sheet)
    assert ended.code == 2
    assert "nothing to draw" in ended.err
    assert sheet.read_bytes() == before
